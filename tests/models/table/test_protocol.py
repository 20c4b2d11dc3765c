"""A protocol is read strictly, orders its rows, and gives a row of another setting another digest."""

from pathlib import Path

import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.schemes import NormClips
from kwsq.models.table.protocol import CONTROL, FLOAT, Protocol
from kwsq.models.table.read_protocol import read_protocol

FIRST_DIGESTS = {
    ("float", 32): "fad952fcf958",
    ("control", 32): "886ec8d19322",
    ("ste", 4): "c460e3b0e227",
    ("two_stage", 4): "b93e3e552197",
    ("learned_step", 4): "db744802918d",
    ("two_stage_acosr", 4): "04777e8e98f7",
    ("fxp", 4): "33be0339d507",
}
SHIPPED = Path(__file__).resolve().parents[3] / "models" / "kws_ff" / "table.toml"


@pytest.fixture(scope="module")
def shipped() -> Protocol:
    return read_protocol(SHIPPED)


def changed(tmp_path: Path, old: str, new: str, *, file: str = "table.toml") -> Protocol:
    for name in ("table.toml", "recipe.toml"):
        text = (SHIPPED.parent / name).read_text(encoding="utf-8")
        if name == file:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return read_protocol(tmp_path / "table.toml")


def test_the_shipped_protocol_asks_for_five_folds_and_five_seeds(shipped: Protocol) -> None:
    assert (shipped.folds, len(shipped.seeds)) == (5, 5)
    assert {"ste", "two_stage", "learned_step", "s8bqat", "gq"} <= {method.name for method in shipped.methods}
    assert {1, 2, 4, 5, 8} == set(shipped.method("two_stage_fast").widths)


def test_rows_are_unique_and_ordered_by_seed_with_float_and_control_first(shipped: Protocol) -> None:
    rows = list(shipped.rows())
    assert len(set(rows)) == len(rows)
    own = [seeds for method in shipped.methods for _, seeds in method.own_seeds]
    asked = sum(5 * len(x.bits) + 2 * len(x.two_seed_bits) + len(x.one_seed_bits) for x in shipped.methods)
    assert len(rows) == 5 * (asked + sum(len(seeds) - 5 for seeds in own) + len(shipped.all_seeds) - 5)
    assert [row.seed for row in rows] == sorted(row.seed for row in rows)
    first = [(name, fold) for name in (FLOAT, CONTROL) for fold in range(5)]
    assert [(row.method, row.fold) for row in rows[:10]] == first
    assert all(shipped.float_row(row) in rows for row in rows)


def test_a_width_cut_to_one_seed_keeps_the_rows_it_has(shipped: Protocol, tmp_path: Path) -> None:
    whole = set(changed(tmp_path, "one_seed_bits = [4, 5]", "bits = [4, 5]").rows())
    assert {row for row in whole if row.seed == 0} == {row for row in shipped.rows() if row.seed == 0}
    assert {(row.method, row.seed) for row in whole - set(shipped.rows())} == {("lloyd_max", s) for s in (1, 2, 3, 4)}


def test_a_width_cut_to_two_seeds_keeps_the_rows_of_both(shipped: Protocol, tmp_path: Path) -> None:
    line = "two_seed_bits = [4, 8]"  # the first such line is that of the long ones
    assert shipped.method("fxp_long").two_seed_bits == (4, 8)
    whole = set(changed(tmp_path, line, "bits = [4, 8]").rows())
    assert {row for row in whole if row.seed < 2} == {row for row in shipped.rows() if row.seed < 2}
    assert {(row.method, row.seed) for row in whole - set(shipped.rows())} == {("fxp_long", s) for s in (2, 3, 4)}


def test_a_goal_is_asked_of_every_width_by_a_method_that_goes_through_all_seeds(shipped: Protocol) -> None:
    asked: dict[bool, list[int]] = {False: [], True: []}
    for goal in shipped.goals:
        assert goal.bits in shipped.method(goal.method).bits
        assert (goal.least_accuracy is not None) == (goal.method == FLOAT)
        if goal.most_loss is not None:
            asked[shipped.method(goal.method).quantizes_everything].append(goal.bits)
            assert goal.most_loss == (0.2 if goal.bits >= 4 else 0.5 if goal.bits >= 2 else 1.0)
            assert goal.most_upper == (1.0 if goal.bits >= 2 else None)
    assert sorted(asked[False]) == [1, 2, 3, 4, 5, 8]
    assert sorted(asked[True]) == [1, 2, 3, 4, 4, 5, 8, 8]  # fixed point twice


def test_everything_quantized_has_a_control_with_clean_norms(shipped: Protocol) -> None:
    for method in shipped.methods[1:]:  # without the float model itself
        better = shipped.clean_control_of(method.name)
        assert better is not None
        own = shipped.method(shipped.control_of(method.name))
        assert (better is own) == (own.norm_clips is NormClips.CLEAN)
        assert (better.stage1, better.stage2, better.distillation) == (own.stage1, own.stage2, own.distillation)


def test_every_method_of_the_papers_has_five_seeds_at_its_widths(shipped: Protocol) -> None:
    two_stage = {"two_stage_fast": (8, 5, 4, 2, 1), "two_stage_all_fast": (8, 5, 4, 1)}
    named = two_stage | {"s8bqat": (5, 4), "fxp_longer": (8, 4), "gq": (4, 2)}
    assert shipped.seeds == (0, 1, 2, 3, 4)
    for name, widths in named.items():
        method = shipped.method(name)
        assert set(widths) <= set(method.bits)
        assert all(len(shipped.seeds_of(method, bits)) >= 5 for bits in widths)


def test_own_seeds_are_a_widths_its_rows_of_other_seeds_stay(shipped: Protocol, tmp_path: Path) -> None:
    line = 'name = "s8bqat"\nweights = "s8bqat"\nbits = [4, 5]\n'
    other = changed(tmp_path, line, f"{line}own_seeds = {{ 5 = [0, 5] }}\n")
    method = other.method("s8bqat")
    assert (other.seeds_of(method, 5), other.seeds_of(method, 4)) == ((0, 5), (0, 1, 2, 3, 4))
    assert other.all_seeds == (0, 1, 2, 3, 4, 5) == other.seeds_of(other.method(FLOAT), 32)
    gone, come = set(shipped.rows()) - set(other.rows()), set(other.rows()) - set(shipped.rows())
    assert {(row.method, row.bits, row.seed) for row in gone} == {("s8bqat", 5, seed) for seed in (1, 2, 3, 4)}
    assert {(row.method, row.bits, row.seed, row.fold) for row in come} == {("s8bqat", 5, 5, f) for f in range(5)}
    assert all(other.float_row(row) in set(other.rows()) for row in come)


def test_a_goal_states_the_seeds_its_method_was_chosen_by(shipped: Protocol) -> None:
    chosen = {goal.bits: shipped.seen_of(goal) for goal in shipped.goals if goal.method == "two_stage_fast"}
    assert chosen == {8: (0, 1, 2, 3)}
    others = [goal for goal in shipped.goals if goal.method != "two_stage_fast"]
    assert {shipped.seen_of(goal) for goal in others} == {shipped.seen_seeds} == {(0, 1)}


def test_a_method_and_its_control_have_the_same_epochs_and_teacher(shipped: Protocol) -> None:
    for method in shipped.methods:
        control = shipped.method(shipped.control_of(method.name))
        if method.weights != "float":
            assert (method.stage1.epochs, method.stage2.epochs) == (control.stage1.epochs, control.stage2.epochs)
            assert method.distillation == control.distillation
            assert control.weights == "float"


def test_a_method_and_its_control_take_the_statistics_of_the_same_clips(shipped: Protocol) -> None:
    for method in shipped.methods:
        control = shipped.method(shipped.control_of(method.name))
        if method.weights != "float":
            keeps_its_own = method.quantizes_everything
            assert control.norm_clips == (NormClips.AS_TRAINED if keeps_its_own else method.norm_clips)


def test_what_is_trained_is_what_the_method_says(shipped: Protocol) -> None:
    for method in shipped.methods:
        for bits in method.widths:
            trained = method.variant(bits)
            for key in ("name", "stage1", "stage2", "activation_percentile", "activation_ranges", "norm_clips"):
                assert getattr(trained, key) == getattr(method, key)
            assert trained.scheme == method.scheme(bits)


def test_controls_that_differ_in_the_statistics_of_their_norms_share_their_training(shipped: Protocol) -> None:
    groups: dict[str, set[tuple[str, int, int]]] = {}
    for row in shipped.rows():
        if shipped.method(row.method).weights == "float":
            groups.setdefault(shipped.training_key(row), set()).add((row.method, row.seed, row.fold))
    pairs = {(f"control{length}", f"control{length}_as_trained") for length in ("", "_long", "_longer")}
    for group in groups.values():
        names = tuple(sorted(name for name, _, _ in group))
        assert len({(seed, fold) for _, seed, fold in group}) == 1
        assert names in pairs | {(FLOAT,), ("control_distilled",)}
    assert len(groups) == 25 * (1 + len(pairs)) + 5 + 5 * 3  # three of them with a sixth seed, and one with one seed
    digests = [row.digest for row in shipped.rows()]
    assert len(set(digests)) == len(digests)
    taking_over = {method.name for method in shipped.methods if shipped.takes_over(method)}
    assert taking_over == {"control_as_trained", "control_long_as_trained", "control_longer"}


@pytest.mark.parametrize(
    ("file", "old", "new", "float_changes"),
    [
        ("table.toml", "learning_rate = 1e-3", "learning_rate = 2e-3", False),
        ("table.toml", "cosine = 1e-4", "cosine = 2e-4", False),
        ("table.toml", "fold_seed = 0", "fold_seed = 1", True),
        ("recipe.toml", "max_gain_db = 6.0", "max_gain_db = 5.0", True),
        ("recipe.toml", "epochs = 200", "epochs = 201", True),
    ],
)
def test_what_decides_a_row_is_in_its_digest(
    shipped: Protocol, tmp_path: Path, file: str, old: str, new: str, float_changes: bool
) -> None:
    before, after = set(shipped.rows()), set(changed(tmp_path, old, new, file=file).rows())
    new_rows = {row.method for row in after - before}
    assert new_rows
    assert (FLOAT in new_rows) == float_changes


def test_ranges_of_activations_are_in_the_digest_where_they_are_not_the_moving_ones(
    shipped: Protocol, tmp_path: Path
) -> None:
    line = 'name = "dorefa"\n'
    other = changed(tmp_path, line, line + 'activation_ranges = "learned"\n')
    assert {row.method for row in set(other.rows()) - set(shipped.rows())} == {"dorefa"}
    same = changed(tmp_path, line, line + 'activation_ranges = "moving"\n')
    assert set(same.rows()) == set(shipped.rows())


def test_clips_of_norms_are_in_the_digest_where_they_are_not_the_clean_ones(shipped: Protocol, tmp_path: Path) -> None:
    line = 'name = "dorefa"\n'
    other = changed(tmp_path, line, line + 'norm_clips = "mixed"\n')
    assert {row.method for row in set(other.rows()) - set(shipped.rows())} == {"dorefa"}
    same = changed(tmp_path, line, line + 'norm_clips = "clean"\n')
    assert set(same.rows()) == set(shipped.rows())


@pytest.mark.parametrize(("method", "option"), [("learned_step", "per_channel = true"), ("fxp", "cosine = 1e-4")])
def test_an_option_that_came_later_is_in_the_digest_where_it_is_set(
    shipped: Protocol, tmp_path: Path, method: str, option: str
) -> None:
    line = f'name = "{method}"\n'
    other = changed(tmp_path, line, f"{line}options = {{ {option} }}\n")
    assert {row.method for row in set(other.rows()) - set(shipped.rows())} == {method}


def test_options_that_came_later_leave_finished_rows_their_digest(shipped: Protocol) -> None:
    """Of a row of each scheme, as it was written into the results file."""
    digests = {(row.method, row.bits): row.digest for row in shipped.rows() if (row.seed, row.fold) == (0, 0)}
    for key, digest in FIRST_DIGESTS.items():
        assert digests[key] == digest


def test_what_does_not_decide_a_row_keeps_its_digest(shipped: Protocol, tmp_path: Path) -> None:
    more_widths = changed(tmp_path, "one_seed_bits = [4, 5]", "one_seed_bits = [4, 5, 6]")
    assert set(shipped.rows()) < set(more_widths.rows())
    other_bundle = changed(tmp_path, 'name = "w5_codebook"', 'name = "other"', file="recipe.toml")
    assert set(shipped.rows()) == set(other_bundle.rows())


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("fold_seed = 0", "", "fold_seed"),
        ("fold_seed = 0", "fold_seed = 0\ncolour = 1", "colour"),
        ('control = "control_distilled"', 'control = "none"', "control 'none'"),
        ('name = "dorefa"', 'name = "ste"', "named twice"),
        ('method = "learned_step", bits = 3', 'method = "learned_step", bits = 6', "'learned_step' at 6 bits"),
        ('method = "learned_step", bits = 3', 'method = "learnt_step", bits = 3', "'learnt_step' at 3 bits"),
        ("bits = 3, most_loss = 0.5", "bits = 3, most = 0.5", "most"),
        ('methods = ["fxp"]', 'methods = ["fxq"]', "'fxq' as a paper's method"),
        ('methods = ["fxp"]', 'methods = ["fxp"], year = 2023', "year"),
        ("one_seed_bits = [4, 5]", "one_seed_bits = [4, 8]", "1..7 for lloyd_max"),
        ("one_seed_bits = [4, 5]", "", "widths, each once"),
        ("one_seed_bits = [4, 5]", "bits = [5]\none_seed_bits = [4, 5]", "widths, each once"),
        ("one_seed_bits = [4, 5]", "two_seed_bits = [5]\none_seed_bits = [4, 5]", "widths, each once"),
        ("cosine = 1e-4", "colour = 1e-4", "colour"),
        ("one_seed_bits = [4, 5]", "one_seed_bits = [4, 5]\nown_seeds = { 4 = [0, 1] }", "own_seeds of 4 bits"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { 2 = [0, 6] }", "seed 6 of 'gq' at 2 bits.*'control'"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { 2 = [0, 0] }", "own_seeds {'2': \\[0, 0\\]}"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { 2 = [-1] }", "whole numbers"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { 2 = [true] }", "whole numbers"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { two = [0] }", "from widths"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { 2 = [] }", "whole numbers"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = [2]", "a table from widths"),
        ("own_seeds = { 2 = [0, 1, 2, 3, 4, 5] }", "own_seeds = { 2 = 5 }", "whole numbers"),
        ("seeds = [0, 1, 2, 3, 4]", "seeds = [0, 0]", r"seeds \[0, 0\]; expected whole numbers from 0, each once"),
        ("seeds = [0, 1, 2, 3, 4]", "seeds = [-1]", r"seeds \[-1\]"),
        ("folds = 5", 'folds = "5"', "folds '5'; expected a whole number from 2"),
        ('name = "dorefa"', 'name = "../x"', r"method '\.\./x'"),
        ('name = "dorefa"', 'name = ["x"]', "unhashable|not hashable|cannot use"),
        ("seen_seeds = [0, 1, 2, 3] }", "seen_seeds = 3 }", "'int' object is not iterable"),
        ("folds = 5", "folds = ", "Invalid value"),
        (
            'name = "dorefa"',
            'name = "dorefa"\nnorm_clips = "loud"',
            r"protocol: dorefa\.norm_clips.*'loud'",
        ),
    ],
)
def test_a_wrong_protocol_is_refused_by_what_is_wrong(tmp_path: Path, old: str, new: str, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        changed(tmp_path, old, new)


def test_a_protocol_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_bytes(b"folds = 5 # \xff")
    with pytest.raises(UsageError, match="'utf-8' codec"):
        read_protocol(tmp_path / "table.toml")


def test_a_missing_protocol_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_protocol(tmp_path / "none.toml")


def test_a_float_row_is_its_own_start(shipped: Protocol) -> None:
    row = next(row for row in shipped.rows() if row.method == "two_stage_fast" and row.seed == 3)
    start = shipped.float_row(row)
    assert (start.method, start.seed, start.fold) == (FLOAT, row.seed, row.fold)
    assert shipped.float_row(start) == start
