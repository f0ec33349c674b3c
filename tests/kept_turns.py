"""Kept turns of one image, for the tests of layouts and ablations."""

from cocoift.core.schema import KeptTurn, Turn

SHORT = "Answer the question with a short phrase."


def kept(source, dialog, at, question, answer, form="phrase", template=f"{{}} {SHORT}", record=0):
    instruction = question if form == "free" else template.format(question)
    turn = Turn(9, source, dialog, at, question, instruction, answer, form)
    return KeptTurn(turn, record, 0, 10)


IMAGE = [
    kept("vqav2", "1", 0, "What color is it?", "red"),
    kept("llava_instruct", "9-a", 0, "What is this?", "It is a red car.", "free"),
    kept("llava_instruct", "9-a", 1, "Where?", "At the top.", "free"),
    kept("vqav2", "2", 0, "How many?", "2"),
    kept("aokvqa", "x", 0, "Why? A. a B. b", "A. So.", "explanation", "{} Answer with a letter."),
    kept("aokvqa", "y", 0, "Who? A. a B. b", "B. So.", "explanation", "{} Answer with a letter."),
    kept("refcoco", "r", 0, "[0, 0, 1, 1]", "the car", "phrase", "Describe this region: {}"),
    kept("refcoco", "r", 1, "the car", "[0, 0, 1, 1]", "phrase", "Find: {}"),
]


def asked(record):
    return [m.value.removeprefix("<image>\n") for m in record.conversations[::2]]
