"""Examples of every command, which its help shows. A test reads each as the command line would."""

from monkeylib import resources

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("monkeylib demo", "monkeylib demo --model run/model --base nano-base --port 7861 --no-browser"),
    "answer": (
        'monkeylib answer receipt.png "how much is the juice?"',
        'monkeylib answer before.jpg --image after.jpg "what has changed?" --model echo840/Monkey --bits 4',
        "monkeylib answer receipt.png --questions questions.txt --json",
        "monkeylib answer photo.jpg --prompt detailed_caption --grid auto",
    ),
    "chat": (
        "monkeylib chat receipt.png",
        "monkeylib chat scan.pdf#3 --image scan.pdf#4 --model nano-monkey",
    ),
    "serve": ("monkeylib serve", "monkeylib serve --model echo840/Monkey --port 8000 --max-images 4"),
    "caption": (
        "monkeylib caption photos --out captions",
        "monkeylib caption photos --out captions --experts paper --composer chat --dry-run",
    ),
    "train": (
        "monkeylib train --data records.json --base nano-monkey --steps 100 --out run",
        "monkeylib train --data my-mixture.yaml --profile paper-896 --base path/to/qwen-vl --devices 8",
        "monkeylib train --data records.json --base llava-hf/llava-1.5-7b-hf --grid 2x2",
    ),
    "evaluate": (
        "monkeylib evaluate --limit 100",
        "monkeylib evaluate --data questions.csv --model run/model --out scores",
        "monkeylib evaluate --benchmarks docvqa,textvqa --data downloads --model Qwen/Qwen2-VL-2B-Instruct",
    ),
    "score": (
        "monkeylib score scores-before scores-after",
        "monkeylib score predictions.jsonl --benchmark docvqa --data downloads",
    ),
    "convert": (
        "monkeylib convert echo840/Monkey monkey",
        "monkeylib convert run released --to released",
        "monkeylib convert run adapters --to peft",
    ),
    "data inspect": (
        "monkeylib data inspect samples",
        "monkeylib data inspect records.json --images photos --limit 0",
    ),
    "data convert": (
        "monkeylib data convert records.json --out shards/records.tar",
        "monkeylib data convert textvqa downloads/textvqa --out textvqa.json",
    ),
    "data datasets": ("monkeylib data datasets",),
    "data benchmarks": ("monkeylib data benchmarks --data downloads",),
    "models": ("monkeylib models", "monkeylib models --json"),
    "profiles": ("monkeylib profiles",),
    "prompts": ("monkeylib prompts",),
    "experts": ("monkeylib experts",),
    "assets list": ("monkeylib assets list",),
    "assets fetch": ("monkeylib assets fetch", "monkeylib assets fetch pp-ocr-v6-small yolox-nano"),
    "notebooks": ("monkeylib notebooks", "monkeylib notebooks my-notebooks"),
    "reproduce": ("monkeylib reproduce", "monkeylib reproduce --profile smoke --only 05"),
    "ablations": ("monkeylib ablations --dry-run", "monkeylib ablations --only per_tile --seed 2"),
    "doctor": ("monkeylib doctor", "monkeylib doctor --json"),
}


def epilog(command: str) -> str | None:
    """Return the examples of a command as the last lines of its help; None if it has none."""
    # An empty line between two lines keeps them apart.
    lines = [resources.as_typed(line) for line in EXAMPLES.get(command, ())]
    return "\n\n".join(["Examples:", *lines]) if lines else None
