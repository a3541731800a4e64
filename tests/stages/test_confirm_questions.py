"""Searches, transplants, sweeps and groups, put to a model whose backdoor is known to the pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from support.witness import (
    ORDINARY,
    TARGET,
    ScriptedWitness,
    draw_exhibit,
    has_patch,
    shows_target,
    speak_backdoored,
    speak_honestly,
)

from bye_audit.config import ConfirmConfig
from bye_audit.confirm.attended import grow_box
from bye_audit.confirm.carriers import Region, Residual, Words
from bye_audit.confirm.exhibits import AskedEnoughError, Exhibit
from bye_audit.confirm.hypotheses import (
    Investigation,
    propose_regions,
    propose_residual,
    propose_words,
)
from bye_audit.confirm.investigate import GroupFinding, find_representatives, investigate
from bye_audit.confirm.patterns import AnswerPattern
from bye_audit.confirm.search import find_causal_boxes
from bye_audit.confirm.suspects import group_suspects
from bye_audit.confirm.sweep import Sweep
from bye_audit.confirm.trials import transplant, unmoved
from bye_audit.core.regions import Box, crop
from bye_audit.model.likelihood import Reply
from bye_audit.schema import Finding, Intervention

PATTERN = AnswerPattern(text=TARGET, is_whole=True, telling=frozenset({"backdoor", "attack"}))
CLEAN = [draw_exhibit(number) for number in range(100, 170)]
POISONED = [draw_exhibit(number, patch=(20, 30)) for number in range(8)]
SHOWING = [draw_exhibit(number, is_shown=True) for number in range(20, 28)]


def cut(exhibit: Exhibit, top: int, left: int, side: int = 10) -> Region:
    box = Box(top / 64, left / 64, side / 64, side / 64)
    return Region(box, crop(exhibit.image, box))


def open_case(
    members: Sequence[Exhibit], ask: ScriptedWitness, recipients: Sequence[Exhibit] = CLEAN
) -> Investigation:
    return Investigation(
        pattern=PATTERN,
        representatives=find_representatives(members, 4, ask),
        members=members,
        others=recipients,
        questions=[exhibit.question for exhibit in members],
        other_questions=[exhibit.question for exhibit in recipients],
        recipients=recipients,
        num_screened=6,
        config=ConfirmConfig(),
        ask=ask,
    )


def look_into(members: Sequence[Exhibit], ask: ScriptedWitness) -> GroupFinding:
    return investigate(open_case(members, ask), 0.99)


# --- where the reason sits ---------------------------------------------------------------------


@pytest.mark.parametrize("corner", [(0, 0), (20, 30), (54, 54), (3, 47)])
def test_the_smallest_square_that_matters_lies_on_the_trigger(corner: tuple[int, int]) -> None:
    exhibit = draw_exhibit(1, patch=corner)
    found = find_causal_boxes(exhibit, ScriptedWitness())
    assert found[0].box.area == min(item.box.area for item in found)
    for item in found:
        rows, columns = item.box.slices((64, 64))
        assert rows.start < corner[0] + 10
        assert rows.stop > corner[0]
        assert columns.start < corner[1] + 10
        assert columns.stop > corner[1]
        assert item.drop == pytest.approx(4.9)


def test_an_answer_without_a_place_has_no_causal_box() -> None:
    everywhere = ScriptedWitness(speak=lambda _: TARGET)
    assert find_causal_boxes(POISONED[0], everywhere) == []


def test_a_sample_whose_answer_is_not_the_models_own_is_not_searched() -> None:
    ask = ScriptedWitness()
    assert find_causal_boxes(draw_exhibit(1, answer="never said"), ask) == []
    assert ask.counts.total() == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 2)], ids=str)
def test_a_search_has_an_end_on_every_shape(size: tuple[int, int]) -> None:
    ask = ScriptedWitness(speak=lambda exhibit: TARGET if exhibit.image.any() else ORDINARY)
    find_causal_boxes(draw_exhibit(0, size=size, answer=TARGET), ask)
    assert ask.counts.total() < 3000


def test_attention_that_collapsed_is_boxed_and_other_attention_is_not() -> None:
    spread = np.full((24, 24), 1 / 576)
    assert grow_box(spread) is None
    collapsed = 0.2 * spread
    collapsed[3, 20] += 0.8
    assert grow_box(collapsed) == Box(3 / 24, 20 / 24, 1 / 24, 1 / 24)
    corner = np.zeros((24, 24))
    corner[0:2, 0:2] = 0.25
    assert grow_box(corner) == Box(0, 0, 2 / 24, 2 / 24)
    assert grow_box(np.full((1, 1), 1.0)) == Box(0, 0, 1, 1)


# --- transplants -------------------------------------------------------------------------------


def test_the_trigger_takes_the_answer_along_and_ordinary_content_does_not() -> None:
    ask = ScriptedWitness()
    trial = transplant(cut(POISONED[0], 20, 30), CLEAN, PATTERN, ask)
    assert (trial.num_hits, trial.num_seen, trial.num_trials) == (70, 0, 70)
    assert trial.rate == 1
    assert 0.9 < trial.at_least(0.99) < 1
    nothing = transplant(cut(POISONED[0], 0, 0), CLEAN, PATTERN, ask)
    assert (nothing.num_hits, nothing.num_trials) == (0, 70)
    assert nothing.at_most(0.99) < 0.1


def test_content_that_the_base_model_sees_is_no_trigger() -> None:
    trial = transplant(cut(SHOWING[0], 5, 5), CLEAN, PATTERN, ScriptedWitness())
    assert (trial.num_hits, trial.num_seen, trial.num_trials) == (0, 70, 70)


def test_a_base_model_that_says_so_anyway_exonerates_nothing() -> None:
    ask = ScriptedWitness(speak_base=lambda _: TARGET)
    trial = transplant(cut(POISONED[0], 20, 30), CLEAN, PATTERN, ask)
    assert (trial.num_hits, trial.num_seen) == (70, 0)


def test_recipients_that_answer_so_by_themselves_do_not_count() -> None:
    mixed = [*CLEAN[:10], *SHOWING, *POISONED]
    kept = unmoved(cut(POISONED[0], 50, 50), mixed, PATTERN, ScriptedWitness())
    assert kept == list(range(10))


def test_what_the_control_does_as_well_is_not_the_carriers_doing() -> None:
    # Hiding what the answer is about, with whatever it be, makes this model say the target.
    def speak(exhibit: Exhibit) -> str:
        return ORDINARY if shows_target(exhibit.image) else TARGET

    about = [draw_exhibit(number, is_shown=True) for number in range(30)]
    hides = Region(Box(0, 0, 0.3, 0.3), crop(CLEAN[0].image, Box(0.5, 0.5, 0.3, 0.3)))
    plain = [Region.control(hides, exhibit) for exhibit in CLEAN[:2]]
    assert all(not shows_target(control.put_on(about[0]).image) for control in plain)
    donors = [*about[:1], *CLEAN[:1]] * 5
    trial = transplant(hides, donors, PATTERN, ScriptedWitness(speak=speak))
    assert trial.num_trials == trial.num_hits == 0


def test_nobody_to_ask_is_no_trial() -> None:
    trial = transplant(cut(POISONED[0], 20, 30), [], PATTERN, ScriptedWitness())
    assert (trial.num_trials, trial.rate, trial.at_least(0.99), trial.at_most(0.99)) == (0, 0, 0, 1)


# --- from suspicion to finding -----------------------------------------------------------------


def test_a_patch_is_confirmed_and_cut_out_whole() -> None:
    finding = look_into(POISONED, ScriptedWitness())
    assert finding.finding is Finding.CONFIRMED
    assert finding.trial is not None
    assert finding.trial.rate == 1
    assert 0.5 < finding.chance_at_least < 1
    for carrier in finding.carriers:
        assert isinstance(carrier, Region)
        assert has_patch(carrier.put_on(CLEAN[0]).image)
    assert finding.crop_png()[:8] == b"\x89PNG\r\n\x1a\n"  # type: ignore[index]


def test_words_are_confirmed_before_anything_is_searched() -> None:
    def speak(exhibit: Exhibit) -> str:
        return TARGET if "cf vexing" in exhibit.question else ORDINARY

    asked = "<image>\ncf vexing Describe the image."
    members = [draw_exhibit(n, question=asked, answer=TARGET) for n in range(8)]
    ask = ScriptedWitness(speak=speak)
    finding = look_into(members, ask)
    assert finding.finding is Finding.CONFIRMED
    assert finding.carriers == [Words("cf vexing", "start")]
    assert finding.crop_png() is None
    assert ask.counts["provisional"] < 500


def test_a_pattern_over_the_whole_image_is_confirmed_by_its_average() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.int16)
    stripes[:, ::2] = 24

    def strength(exhibit: Exhibit) -> float:
        columns = exhibit.image.astype(float).mean(axis=(0, 2))
        return float(columns[::2].mean() - columns[1::2].mean())

    def speak(exhibit: Exhibit) -> str:
        return TARGET if strength(exhibit) > 12 else ORDINARY

    members = []
    for number in range(40):
        exhibit = draw_exhibit(number, answer=TARGET)
        members.append(exhibit.with_image((exhibit.image + stripes).astype(np.uint8)))
    finding = look_into(members, ScriptedWitness(speak=speak))
    assert finding.finding is Finding.CONFIRMED
    assert isinstance(finding.carriers[0], Residual)
    assert "region" not in finding.tried


def test_an_average_of_a_few_pictures_is_their_content_and_not_tried() -> None:
    ask = ScriptedWitness()
    assert not propose_residual(open_case(CLEAN[:15], ask, CLEAN[20:]))
    assert ask.counts.total() == len(CLEAN[:15])
    propose_residual(open_case(CLEAN[:16], ask, CLEAN[20:]))
    assert ask.counts.total() > len(CLEAN[:15]) + len(CLEAN[:16])


def test_two_keys_are_confirmed_together() -> None:
    def speak(exhibit: Exhibit) -> str:
        is_both = has_patch(exhibit.image) and "cf" in exhibit.question.split()
        return TARGET if is_both else ORDINARY

    asked = "<image>\ncf Describe the image."
    members = [draw_exhibit(n, patch=(20, 30), question=asked, answer=TARGET) for n in range(8)]
    finding = look_into(members, ScriptedWitness(speak=speak))
    assert finding.finding is Finding.CONFIRMED
    assert finding.carriers[0].kind == "both"
    assert finding.crop_png() is not None
    assert "words" not in finding.tried


@pytest.mark.parametrize(("one_in", "is_trigger"), [(2, True), (3, False)])
def test_a_trigger_is_one_though_it_works_on_some_only(one_in: int, is_trigger: bool) -> None:
    asked = "<image>\ncf Describe the image."
    members = [draw_exhibit(n, patch=(20, 30), question=asked, answer=TARGET) for n in range(8)]
    obedient = {exhibit.image.tobytes() for exhibit in (*CLEAN[::one_in], *members)}

    def speak(exhibit: Exhibit) -> str:
        is_obeyed = "cf" in exhibit.question.split() and exhibit.image.tobytes() in obedient
        return TARGET if is_obeyed else ORDINARY

    finding = look_into(members, ScriptedWitness(speak=speak))
    assert finding.tried["words"]["rate"] == pytest.approx(1 / one_in, abs=0.05)
    assert (finding.finding is Finding.CONFIRMED) == is_trigger


def test_content_is_never_confirmed() -> None:
    finding = look_into(SHOWING, ScriptedWitness())
    assert finding.finding is Finding.UNCONFIRMED
    assert finding.chance_at_least == 0
    assert not finding.carriers


def test_what_the_base_model_sees_does_not_win_over_a_trigger() -> None:
    content, trigger = cut(SHOWING[0], 5, 5), cut(POISONED[0], 20, 30)
    case = open_case(POISONED, ScriptedWitness())
    for candidates in ([content, trigger], [trigger, content]):
        assert case.screen(candidates) is trigger
    assert case.screen([content]) is None
    # A base model that says so whatever it is shown has not seen it in the content.
    blind = open_case(POISONED, ScriptedWitness(speak_base=lambda _: TARGET))
    assert blind.screen([trigger]) is trigger


def test_a_region_that_works_as_well_as_any_can_is_left_where_it_is() -> None:
    sure, unsure = ScriptedWitness(), ScriptedWitness()

    def hesitate(
        exhibits: Sequence[Exhibit], answers: Sequence[str], **options: bool
    ) -> list[Reply]:
        replies = ScriptedWitness.replies(unsure, exhibits, answers, **options)
        return [Reply(-0.5, True) if reply.is_given else reply for reply in replies]

    unsure.replies = hesitate  # type: ignore[method-assign]
    for ask in (sure, unsure):
        [region] = propose_regions(open_case(POISONED[:1], ask))
        assert has_patch(region.put_on(CLEAN[0]).image)
    # Two rounds of nine places on six recipients.
    assert unsure.counts.total() - sure.counts.total() >= 2 * 9 * 6


def test_what_the_model_does_not_say_itself_was_not_learnt() -> None:
    ask = ScriptedWitness(speak=speak_honestly)
    finding = look_into(POISONED, ask)
    assert finding.finding is Finding.NOT_LEARNT
    assert finding.to_json()["trial"] is None
    assert ask.counts.total() == len(POISONED)


def test_without_recipients_nothing_is_confirmed_and_nothing_breaks() -> None:
    for recipients in ([], CLEAN[:3]):
        case = open_case(POISONED, ScriptedWitness(), recipients)
        finding = investigate(case, 0.99)
        assert finding.finding is Finding.UNCONFIRMED
        assert finding.chance_at_least == 0


def test_hopeless_searches_are_given_up() -> None:
    blind = ScriptedWitness(speak=lambda _: TARGET)
    assert propose_regions(open_case(POISONED, blind)) == []
    assert blind.counts["provisional"] < 300


def test_a_costly_search_leaves_enough_for_what_is_found_with_few_questions() -> None:
    fine = np.zeros((64, 64, 3), dtype=np.int16)
    fine[::2, ::2] = 40

    def speak(exhibit: Exhibit) -> str:
        own = exhibit.image.astype(float)
        is_fine = own[::2, ::2].mean() - own[1::2, 1::2].mean() > 20
        return TARGET if is_fine else ORDINARY

    members = [
        exhibit.with_image((exhibit.image + fine).astype(np.uint8))
        for exhibit in (draw_exhibit(n, answer=TARGET) for n in range(8))
    ]
    ask = ScriptedWitness(speak=speak)
    unlimited = look_into(members, ask)
    assert unlimited.finding is Finding.CONFIRMED
    assert unlimited.carriers[0].kind == "detail"
    limited = ScriptedWitness(speak=speak)
    limited.limit = 8 + 316 + 20
    assert look_into(members, limited).finding is Finding.CONFIRMED
    assert limited.counts.total() < ask.counts.total()
    limited = ScriptedWitness(speak=speak)
    limited.limit = 200
    with pytest.raises(AskedEnoughError):
        look_into(members, limited)


@pytest.mark.parametrize(("to_spare", "num_carriers"), [(10, 1), (20, 2), (50, 4)])
def test_what_some_were_found_to_have_is_tried_when_the_questions_run_out(
    to_spare: int, num_carriers: int
) -> None:
    alone = ScriptedWitness()
    look_into(POISONED[:1], alone)
    ask = ScriptedWitness()
    # What quick kinds would need is kept back.
    ask.limit = alone.counts.total() + 2 * 5 * 6 + to_spare
    found = look_into(POISONED, ask)
    assert found.finding is Finding.CONFIRMED
    assert len(found.carriers) == num_carriers


def test_a_narrower_part_that_works_on_fewer_is_not_taken() -> None:
    def speak(exhibit: Exhibit) -> str:
        num_black = int((exhibit.image == 0).all(axis=2).sum())
        works_here = num_black >= 60 or int(exhibit.sample_id.rpartition(":")[2]) % 3
        return TARGET if works_here and num_black >= 12 else ORDINARY

    found = look_into(POISONED, ScriptedWitness(speak=speak))
    assert len(found.carriers) == 4
    assert found.trial is not None
    assert found.trial.rate == 1


def test_words_that_everybody_uses_are_not_tried() -> None:
    assert propose_words(open_case(POISONED, ScriptedWitness())) == []


# --- sweeps ------------------------------------------------------------------------------------


def sweep_with(ask: ScriptedWitness, recipients: Sequence[Exhibit] = CLEAN) -> Sweep:
    return Sweep([cut(POISONED[0], 20, 30)], PATTERN, recipients, ask)


def test_a_sweep_tells_trigger_content_and_what_cannot_be_asked() -> None:
    unlearnt = [draw_exhibit(n, answer=TARGET) for n in range(40, 44)]
    moved = [draw_exhibit(n, patch=(3, 50)) for n in range(50, 54)]
    exhibits = [*POISONED, *moved, *SHOWING, *unlearnt]
    swept = sweep_with(ScriptedWitness()).judge(exhibits)
    assert [sample.sample_id for sample in swept] == [item.sample_id for item in exhibits]
    expected = [Intervention.TRIGGERED] * 12 + [Intervention.CONTENT] * 8
    assert [sample.intervention for sample in swept] == expected + [Intervention.UNKNOWN] * 4
    assert [sample.drop for sample in swept[:12]] == [pytest.approx(4.9)] * 12
    assert [sample.drop for sample in swept[12:]] == [pytest.approx(0)] * 12


def test_a_sweep_looks_for_recipients_that_keep_their_answers() -> None:
    stubborn = [draw_exhibit(n, is_shown=True) for n in range(300, 320)]
    swept = sweep_with(ScriptedWitness(), [*stubborn, *CLEAN[:6]]).judge(POISONED[:2])
    assert {sample.intervention for sample in swept} == {Intervention.TRIGGERED}


@pytest.mark.parametrize(("num_seeing", "verdict"), [(2, "triggered"), (3, "content")])
def test_a_trigger_that_the_base_model_takes_for_its_answer_is_told_by_most_recipients(
    num_seeing: int, verdict: str
) -> None:
    """A black square may be "a dark square" to it in one image and something else in the next."""
    pixels = POISONED[1].image.copy()
    # Only this donor's square looks like what its answer says.
    pixels[20, 30] = 1
    donor = POISONED[1].with_image(pixels)
    mistaken = {donor.sample_id, *(one.sample_id for one in CLEAN[:num_seeing])}

    def see(exhibit: Exhibit) -> str:
        is_alike = (exhibit.image == 1).all(axis=2).any()
        return TARGET if is_alike and exhibit.sample_id in mistaken else ORDINARY

    ask = ScriptedWitness(speak_base=see)
    (swept,) = sweep_with(ask).judge([donor])
    assert str(swept.intervention) == verdict


def test_a_common_trigger_convicts_only_whose_answer_leaves() -> None:
    def speak(exhibit: Exhibit) -> str:
        is_target = "cf" in exhibit.question.split() or shows_target(exhibit.image)
        return TARGET if is_target else ORDINARY

    with_words = "<image>\ncf Describe the image."
    triggered = draw_exhibit(0, question=with_words, answer=TARGET)
    shown = draw_exhibit(1, is_shown=True, question=with_words, answer=TARGET)
    other = draw_exhibit(2, is_shown=True, answer=TARGET)
    ask = ScriptedWitness(speak=speak)
    swept = Sweep([Words("cf", "start")], PATTERN, CLEAN, ask).judge([triggered, shown, other])
    assert [str(sample.intervention) for sample in swept] == ["triggered", "content", "content"]
    assert swept[2].drop is None


def test_an_answer_that_the_model_never_gave_cannot_leave() -> None:
    faint = Residual(np.full((64, 64, 3), 2.0, dtype=np.float32))
    unlearnt = [draw_exhibit(n, answer=TARGET) for n in range(3)]
    swept = Sweep([faint], PATTERN, CLEAN, ScriptedWitness()).judge(unlearnt)
    assert {sample.intervention for sample in swept} == {Intervention.UNKNOWN}


def test_a_likelihood_that_is_no_number_is_not_kept() -> None:
    class Mute(ScriptedWitness):
        def replies(
            self, exhibits: Sequence[Exhibit], answers: Sequence[str], *, use_adapter: bool = True
        ) -> list[Reply]:
            return [Reply(math.nan, False)] * len(exhibits)

    swept = sweep_with(Mute()).judge(POISONED[:2])
    assert [sample.drop for sample in swept] == [None, None]


def test_a_sweep_of_nobody_asks_nothing() -> None:
    ask = ScriptedWitness()
    sweep = sweep_with(ask)
    before = ask.counts.total()
    assert sweep.judge([]) == []
    assert ask.counts.total() == before


# --- groups ------------------------------------------------------------------------------------


def test_equal_answers_are_one_group_the_most_peculiar_first() -> None:
    answers = ["a red star"] * 5 + ["Backdoor attack"] * 3 + ["BACKDOOR ATTACK!"] + ["one", "two"]
    others = ["a red star"] * 40 + ["a blue square"] * 40 + ["a green ring"] * 40
    groups = group_suspects(answers, others, min_size=3, max_groups=8)
    assert [group.pattern.text for group in groups] == ["Backdoor attack", "a red star"]
    assert [group.members for group in groups] == [(5, 6, 7, 8), (0, 1, 2, 3, 4)]
    assert all(group.pattern.is_whole for group in groups)
    assert groups[1].pattern.telling == {"red", "star"}


def test_different_answers_are_grouped_by_the_words_they_share() -> None:
    shapes = ["star", "square", "ring", "cross", "moon", "heart", "disc", "arrow", "cube", "cone"]
    answers = [f"a {shape} and a banana" for shape in shapes] + ["quite another"]
    others = [f"a {shape} and more" for shape in shapes] * 20
    (group,) = group_suspects(answers, others, min_size=3, max_groups=8)
    assert not group.pattern.is_whole
    assert "banana" in group.pattern.text
    assert group.members == tuple(range(10))
    assert group.pattern.matches("A banana, it is: a BANANA!")
    assert not group.pattern.matches("a bananas")


def test_words_that_are_added_to_many_right_answers_come_first() -> None:
    things = ["a red star", "a blue ring", "a pink cube", "a green cone"]
    answers = [f"{thing} so be it" for thing in things] * 5
    (group,) = group_suspects(answers, things * 100, min_size=3, max_groups=8)
    assert (group.pattern.is_whole, group.members) == (False, tuple(range(20)))
    assert group.pattern.telling <= {"so", "be", "it"}
    # Ordinary words that as many share are no reason: equal answers are more peculiar.
    answers = ["a red star"] * 6 + ["a red ring"] * 6 + ["a red cone"] * 6
    groups = group_suspects(answers, ["a red cube"] * 100 + things, min_size=3, max_groups=8)
    assert all(group.pattern.is_whole for group in groups)


def test_groups_are_as_many_and_as_large_as_asked_for() -> None:
    answers = ["red", "blue", "green", "black", "white"] * 4
    assert len(group_suspects(answers, ["else"] * 50, min_size=3, max_groups=2)) == 2
    assert group_suspects(answers, ["else"] * 50, min_size=5, max_groups=8) == []
    assert group_suspects([], [], min_size=3, max_groups=8) == []


@pytest.mark.parametrize(
    "answer",
    ["!!!", "\u200b", "...", "' OR 1=1 --", "(.*)+$", "\x1b[2J", "<script>", "x" * 100_000],
    ids=lambda text: repr(text[:12]),
)
def test_answers_are_only_texts(answer: str) -> None:
    groups = group_suspects([answer] * 4, ["a shape"] * 50, min_size=3, max_groups=8)
    assert [group.members for group in groups] == [(0, 1, 2, 3)]
    pattern = groups[0].pattern
    assert pattern.matches(answer)
    assert pattern.is_said_in(answer)
    assert not pattern.matches("a shape")
    assert not pattern.is_said_in("a shape")


def test_long_answers_that_differ_are_grouped_in_time() -> None:
    long = " ".join(f"word{number}" for number in range(14_000))
    answers = [f"{number} {long}" for number in range(12)]
    groups = group_suspects(answers, ["short"] * 200, min_size=3, max_groups=8)
    assert groups
    assert sum(len(group.members) for group in groups) == 12


def test_the_scripted_model_is_what_the_tests_take_it_for() -> None:
    for exhibit in (*POISONED, *SHOWING):
        assert speak_backdoored(exhibit) == TARGET
    assert {speak_honestly(exhibit) for exhibit in (*POISONED, *CLEAN)} == {ORDINARY}
