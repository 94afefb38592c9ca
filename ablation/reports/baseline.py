"""What the messages alone tell: a classifier without a network, and test messages seen before."""

import unicodedata

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from data_utils import Splits


def classify_by_characters(messages: Splits[pd.DataFrame]) -> Splits[np.ndarray]:
    """Whether each message of each part is classified correctly by a linear support vector
    machine on the TF-IDF of runs of 2 to 5 characters inside words, fitted on the training part."""
    classifier = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)), LinearSVC(random_state=0)
    )
    classifier.fit(messages.train["Text"], messages.train["Label"])
    return messages.map(lambda part: classifier.predict(part["Text"]) == part["Label"].to_numpy())


def copied_texts(messages: Splits[pd.DataFrame]) -> dict[str, np.ndarray]:
    """Whether each test message stands in the training part: word for word, and when only
    letters are compared."""
    views = {"verbatim": lambda text: text, "letters": keep_letters}
    return {
        name: messages.test["Text"].map(view).isin(set(messages.train["Text"].map(view))).to_numpy()
        for name, view in views.items()
    }


def keep_letters(text: str) -> str:
    """The letters of a text, of any script, in one form of lower case and with the marks that
    belong to them; a text without letters as it is, for it has nothing else to be known by."""
    # Folding case may undo the normal form.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    letters, is_letter = [], False
    for character in folded:
        # A mark behind a letter is part of it, such as the vowel signs of Devanagari.
        is_mark = unicodedata.category(character).startswith("M")
        is_letter = character.isalpha() or (is_letter and is_mark)
        if is_letter:
            letters.append(character)
    return "".join(letters) or text
