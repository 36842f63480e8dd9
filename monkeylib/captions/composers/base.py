"""Interface of the composers, which write one detailed caption from a record's annotations."""

from abc import abstractmethod
from collections.abc import Sequence

from monkeylib.captions.annotations import GeneratedCaption, Record
from monkeylib.captions.experts.base import Model


class Composer(Model):
    """Writes the detailed captions of filtered records.

    Attributes:
        cost: US dollars spent since the composer was created. It is known while the composer runs and is
            stored beside the records, not in them: a second run that finds all answers cached costs nothing
            and gives the same records.
        batch_size: records that the composer gets at once, and the most that a kill can lose.
    """

    cost: float = 0.0
    batch_size: int = 8

    def prepare(self) -> None:
        """Load nothing, unless a composer overrides this."""

    @abstractmethod
    def compose(self, record: Record) -> str:
        """Return the caption; empty where nothing is known."""

    def write(self, record: Record) -> str | GeneratedCaption:
        """Return the caption; a composer that rejects drafts adds what was wrong with one."""
        return self.compose(record)

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """Return the captions of several records, an exception in the place of each that failed.

        Records are composed one after the other, unless a composer sends several requests at once.
        """
        results: list[str | GeneratedCaption | Exception] = []
        for record in records:
            try:
                results.append(self.write(record))
            except Exception as error:  # one failed request must not lose the other captions
                results.append(error)
        return results
