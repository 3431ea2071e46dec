"""Budgets: what is refused, what is measured, when it holds."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.errors import AttncError, ConfigError, DataError
from attnc.search.budget import Budget, Pool, Score, Yardstick, cosine, sqnr


def test_parse() -> None:
    assert Budget.parse("cosine>=0.99") == Budget("cosine", 0.99)
    assert Budget.parse(" sqnr >= 3e1 ") == Budget("sqnr", 30.0)
    assert str(Budget.parse("accuracy_drop<=1")) == "accuracy_drop<=1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'needed "cosine>=0.99"'),
        ("0.99", 'needed "cosine>=0.99"'),
        ("cosine", 'needed "cosine>=0.99"'),
        ("cosine>0.99", 'needed "cosine>=0.99"'),
        ("cosin>=0.99", 'needed "cosine>=0.99"'),
        ("cosine>=0.99 sqnr>=3", 'needed "cosine>=0.99"'),
        ("cosine>=high", "'high' is no number"),
        ("cosine<=0.99", "cosine needs >="),
        ("accuracy_drop>=1", "accuracy_drop needs <="),
        ("cosine>=1.01", "cosine lies in 0 to 1"),
        ("cosine>=-0.1", "cosine lies in 0 to 1"),
        ("cosine>=nan", "cosine lies in 0 to 1"),
        ("sqnr>=inf", "sqnr lies in -99 to 99"),
        ("accuracy_drop<=nan", "accuracy_drop lies in 0 to 100"),
        ("accuracy_drop<=-1", "accuracy_drop lies in 0 to 100"),
    ],
)
def test_what_is_no_budget(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget.parse(text)


def test_holds_with_the_margin() -> None:
    budget = Budget("cosine", 0.98)
    assert budget.holds(Score(0.99, 0.009)) and not budget.holds(Score(0.99, 0.011)) and not budget.holds(Score(float("nan")))
    assert Budget("accuracy_drop", 1.0).holds(Score(1.0)) and not Budget("accuracy_drop", 1.0).holds(Score(1.01))
    assert Budget("accuracy_drop", 0.0).holds(Score(-2.0))


def test_cosine_by_hand() -> None:
    real = [np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)]
    found = [np.array([3.0, 0.0]), np.array([1.0, 0.0]), np.zeros(2), np.ones(2)]
    each = np.array([1, 0.5**0.5, 1, 0])
    score = cosine(real, found)
    assert score.value == pytest.approx(each.mean())
    assert score.margin == pytest.approx(2 * each.std(ddof=1) / 2)


def test_sqnr_by_hand() -> None:
    real, found = [np.array([10.0]), np.array([10.0])], [np.array([11.0]), np.array([9.0])]
    assert sqnr(real, found) == Score(pytest.approx(20.0), 0.0)  # type: ignore[arg-type]
    assert sqnr(real, real) == Score(99.0)
    assert sqnr([np.zeros(1)] * 2, found) == Score(-99.0)


def test_the_margin_covers_other_samples() -> None:
    """Of many draws of 24 samples, the true mean is below value - margin in few: 2.3 % if they were normal, more as they are skewed."""
    rng = np.random.default_rng(0)
    noise = rng.gamma(30.0, 0.01, (2000, 24, 1))
    real = [np.array([1.0, 0.0])] * 24
    angles = np.concatenate([np.cos(noise), np.sin(noise)], axis=2)
    scores = [cosine(real, list(draw)) for draw in angles]
    missed = np.mean([s.value - s.margin > np.cos(noise).mean() for s in scores])
    assert 0.0 < missed < 0.08
    ratios = [sqnr([np.ones(1)] * 24, [np.ones(1) + x for x in draw[:, :1]]) for draw in noise[:, :, 0:1]]
    truth = -10 * np.log10(np.square(noise).mean())
    assert 0.0 < np.mean([s.value - s.margin > truth for s in ratios]) < 0.08


def samples(count: int) -> list[dict[str, Array]]:
    return [{"x": np.zeros((1, 3)), "mask": np.array([[1, 1, 0]])} for _ in range(count)]


def test_the_worst_output_counts() -> None:
    expected: list[dict[str, Array]] = [{"a": np.eye(2)[:1], "b": np.eye(2)[:1], "ids": np.array([3])} for _ in range(2)]
    found = [{"a": np.eye(2)[:1], "b": np.ones((1, 2)), "ids": np.array([4])} for _ in range(2)]
    assert Yardstick("cosine", expected, samples(2), None, None).score(found).value == pytest.approx(0.5**0.5)
    assert Yardstick("sqnr", expected, samples(2), None, None).score(found).value == pytest.approx(0.0)


def test_accuracy_drop_counts() -> None:
    scores = np.eye(4)
    expected = [{"y": scores[i : i + 1]} for i in (0, 1, 2, 3)]  # right, right, right, wrong
    found = [{"y": scores[i : i + 1]} for i in (0, 0, 0, 0)]  # right, wrong, wrong, right
    assert Yardstick("accuracy_drop", expected, samples(4), None, np.array([0, 1, 2, 0])).score(found) == Score(25.0)


@pytest.mark.parametrize("labels", [None, np.array(3), np.zeros(3, int), np.zeros((4, 1), int), np.zeros(4)])
def test_labels_that_do_not_fit(labels: Array | None) -> None:
    with pytest.raises(DataError, match="labels"):
        Yardstick("accuracy_drop", [{"y": np.eye(2)}] * 4, samples(4), None, labels)


def test_outputs_that_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="at least 2, found 1"):
        Yardstick("cosine", [{"y": np.eye(2)}], samples(1), None, None)
    with pytest.raises(DataError, match="sample 1: the float model gives NaN"):
        Yardstick("cosine", [{"y": np.ones(2)}, {"y": np.array([1.0, np.nan])}], samples(2), None, None)
    with pytest.raises(DataError, match="the model has none"):
        Yardstick("sqnr", [{"y": np.ones(2, int)}] * 2, samples(2), None, None)


def test_pool() -> None:
    outputs = {"y": np.array([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]]]), "other": np.ones((1, 5))}
    sample = {"x": np.zeros(1), "mask": np.array([[1, 1, 0]])}
    mean = Pool.parse("mean:mask", ["x", "mask"]).apply(outputs, sample)
    assert mean["y"].tolist() == [2.0, 3.0] and mean["other"].shape == (1, 5)
    assert Pool.parse("rows:mask", ["x", "mask"]).apply(outputs, sample)["y"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("text", ["mask", "mean", "mean:", "mean:y", "max:mask", ""])
def test_what_is_no_pool(text: str) -> None:
    with pytest.raises(ConfigError, match="--pool: needed mean:MASK or rows:MASK with MASK one of x, mask, found"):
        Pool.parse(text, ["x", "mask"])


def test_pools_that_do_not_fit() -> None:
    pool = Pool("mean", "mask")
    for outputs, mask in (({"y": np.ones((1, 4, 2))}, np.ones((1, 3))), ({"y": np.ones((1, 3))}, np.ones((1, 3)))):
        with pytest.raises(AttncError, match="no output begins with the shape of mask"):
            pool.apply(outputs, {"mask": mask})
    with pytest.raises(AttncError, match="zero everywhere"):
        pool.apply({"y": np.ones((1, 3, 2))}, {"mask": np.zeros((1, 3))})
