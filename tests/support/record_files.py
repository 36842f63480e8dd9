"""Files of records in every format, for the tests of readers and mixtures."""

import io
import json
import struct
import tarfile
import zlib

from PIL import Image

from monkeylib.data.readers import open_dataset
from monkeylib.data.schema import DatasetEntry


def entry(format, path, **fields):
    """Return the entry of a dataset called pets; without a format, it is told."""
    return DatasetEntry(name="pets", format=format, path=path, **fields)


def read_dataset(entry, folder):
    """Return the records of a dataset whose paths start from a folder."""
    return open_dataset(entry, folder)


def conversation(prompt="<img>a.png</img> what is it? Answer: ", answer="a cat", **fields):
    turns = [{"from": "user", "value": prompt}, {"from": "assistant", "value": answer}]
    return {"conversations": turns} | fields


def talk(*turns, image="a.png", **fields):
    messages = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]
    return {"image": image, "conversations": messages} | fields


def example(question="what is it?", answer="a cat", image="a.png", **fields):
    return {"image": image, "question": question, "answer": answer} | fields


def write_list(path, rows):
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def png(width=6, height=4, colour="red"):
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, "PNG")
    return data.getvalue()


def png_claiming(width, height):
    """Return a PNG of one pixel whose header states another size."""
    content = png(1, 1)
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def write_tar(path, members, mode="w"):
    """Write a tar file of (name, bytes)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_parquet(path, **columns):
    from datasets import Dataset

    Dataset.from_dict(columns).to_parquet(path)


def read(folder, format, path, **fields):
    """Return the records of a dataset of one format, whose paths start from a folder."""
    return read_dataset(entry(format, path, **fields), folder)


def lay_out(folder, contents, images):
    """Write the files of a download, and a small image under each name."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write = write_lines if name.endswith(".jsonl") else write_list
        write(folder / name, content)

    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
