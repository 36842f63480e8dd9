"""Questions about documents of several pages: each page is asked alone, and the most probable answer counts.

    answer = the answer of page argmax_p log P(answer_p, end of text | page p, question)

This is the set-up "max confidence" of MP-DocVQA (Tito et al., Pattern Recognition 2023). Several pages in one
prompt are no choice here: Monkey is trained on one image a prompt, and an image takes 1,280 of the 2,048
tokens that it is trained with. The paper doesn't say which pages it shows, and the files of the released
evaluation name one image for each question (`released-deepform` and so on), so scores of the two aren't
comparable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from monkeylib.evaluation.examples import Example
from monkeylib.images import open_image
from monkeylib.model.answers import Answer


@dataclass(frozen=True, eq=False)
class DocumentAnswer(Answer):
    """The answer to a question about a document.

    Attributes:
        page: number of the page that it was read from, from 1.
    """

    page: int = 1


def answer_documents(
    answer: Callable[[Sequence[Example]], Sequence[str | Answer]], examples: Sequence[Example]
) -> list[DocumentAnswer]:
    """Return one answer for each question about a document.

    Args:
        answer: answers a batch of questions about single images; it gets all those about a page at once.
        examples: the questions; those about a document have its pages.

    Raises:
        ImageError: a page can't be read.
        ValueError: the answers have no log-probability.
    """
    by_document: dict[str, list[Example]] = {}
    for example in examples:
        by_document.setdefault(example.image_key, []).append(example)

    best: dict[str, DocumentAnswer] = {}
    for key, questions in by_document.items():
        for number, page in enumerate(questions[0].pages, 1):
            # One page at a time is in memory.
            image = open_image(page)
            questions_of_page = [
                replace(example, image=image, pages=(), image_id=f"{key}#{number}") for example in questions
            ]
            for example, candidate in zip(questions, answer(questions_of_page), strict=True):
                # The first page of several that are equally probable.
                candidate = _of_page(candidate, number)
                if example.id not in best or candidate.log_probability > best[example.id].log_probability:
                    best[example.id] = candidate

    return [best[example.id] for example in examples]


def _of_page(answer: str | Answer, page: int) -> DocumentAnswer:
    if not isinstance(answer, Answer):
        raise ValueError(
            "a document of several pages needs answers with their log-probabilities, to choose among its "
            f"pages; got {type(answer).__name__}"
        )
    values = {field.name: getattr(answer, field.name) for field in fields(Answer)}
    return DocumentAnswer(**values, page=page)
