"""What the report says of numbers, whichever way a metric goes."""

import json

import pytest
from helpers.fake_run import tell, write_run

from pipeline.report import summary_text as words


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.change("accuracy", -0.0043), "0.4 points lower"),
        (words.change("f1", 0.0004), "unchanged"),
        (words.change("pearson", 0.0126), "0.013 higher"),
        (words.change("rougeL", 0.0126), "1.3 points higher"),
        (words.change("perplexity", -0.5), "0.500 lower"),
        (words.count(22_713_216), "22.7 M"),
        (words.count(999), "999"),
        (words.seconds(0.0115), "11.5 ms"),
        (words.seconds(12.34), "12.3 s"),
        (words.seconds(125), "2 min 5 s"),
        (words.share(0.7123), "71 %"),
        (words.share(None), "not measured"),
    ],
)
def test_numbers_are_said_as_people_read_them(said, expected):
    assert said == expected


def test_a_lower_perplexity_than_at_random_is_what_the_scores_earned(tmp_path):
    paths = write_run(tmp_path)
    card = json.loads((paths.prepared / "card.json").read_text())
    changed = {"metric": "perplexity", "metrics": ["perplexity", "exact_match"], "baseline": None}
    (paths.prepared / "card.json").write_text(json.dumps(card | changed))
    for method, value in {"light": 8.0, "vanilla": 7.5, "random": 9.0}.items():
        path = paths.evaluation(method)
        found = json.loads(path.read_text()) | {"perplexity": value, "lifted": None}
        path.write_text(json.dumps(found | {"interval": [value - 0.3, value + 0.3]}))
    page = tell(paths)

    assert "at random reach 9.000: choosing by score is worth 1.000." in page
    assert "exact_match" not in page  # nothing was generated
