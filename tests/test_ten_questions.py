"""What readers of a report ask, each answered within one screen of the sample report, at most two
steps away."""

from typing import Any

import browser as look
import pytest
from test_sample import SAMPLE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What one clicks on, and what is then on the screen.
QUESTIONS: dict[str, tuple[list[str], list[str]]] = {
    "which row is best?": ([], ["Best on the test texts are rows 10 and 13, with 93.67 % each."]),
    "is it certain?": ([], ["7 of the 9 others cannot be told from them"]),
    "is the SVM better?": ([], ["A linear SVM on characters gets 97.67 %, more than all 11"]),
    "did anything fail?": ([], ["No run failed; 11 are complete."]),
    "what should I run next?": ([], ["--rows 1-5,13-16,18-19 --num_seeds 5 --weights random"]),
    "how long did it take?": (["Rows"], ["min", "37.78"]),
    "what is row 13?": (
        ["Rows", "18 rows not run"],
        ["padding to the full context?", "--context_length model_context_length"],
    ),
    "what did row 8 publish?": (
        ["Rows", "18 rows not run"],
        ["the largest?", "train 99.81 %, validation 99.81 %, test 98.33 %, 2.83 min"],
    ),
    "can I trust row 2's difference?": (["Rows"], ["-15.33 to row 1 (p < 0.001)"]),
    "which messages are hard?": (
        ["Messages"],
        [
            "Which rows get which of 300 test messages wrong: the 111 that any row gets wrong",
            "Point at a column",
        ],
    ),
}

ON_SCREEN = """() => {
  const seen = (e) => {
    const box = e.getBoundingClientRect();
    return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight;
  };
  const parts = [...document.querySelectorAll("li, p, td, th, summary, h2, figcaption")];
  const alt = [...document.images].filter(seen).map((image) => image.alt);
  return [...parts.filter(seen).map((e) => e.innerText), ...alt].join("\\n");
}"""


@pytest.fixture(scope="module")
def sample(browser: Any) -> Any:
    with look.opened(browser, SAMPLE) as opened:
        yield opened.page


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_on_one_screen(sample: Any, question: str) -> None:
    sample.set_viewport_size({"width": 1300, "height": 900})
    sample.reload()
    steps, answers = QUESTIONS[question]
    for step in steps:
        sample.get_by_text(step, exact=False).first.click()
    shown = sample.evaluate(ON_SCREEN)
    for answer in answers:
        assert answer in shown
