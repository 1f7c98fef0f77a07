"""A reporter that remembers."""

from rectiseg.progress import Reporter


class Heard(Reporter):
    def __init__(self):
        self.done = 0
        self.said: list[str] = []
        self.notes: list[str] = []

    def advance(self) -> None:
        self.done += 1

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def note(self, text: str) -> None:
        self.notes.append(text)
