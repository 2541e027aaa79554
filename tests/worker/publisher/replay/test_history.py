"""Every prediction of a pipeline is kept, or lost for a reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.peers.replay import Cause, Key, Loss, Span
from streamfleet_worker.publisher.replay.history import MAX_SPANS, History

RUNS = [(1, 0), (1, 1), (3, 1)]
KEYS = st.lists(
    st.tuples(st.sampled_from(RUNS), st.integers(0, 30)).map(lambda each: (*each[0], each[1])), max_size=60
)


def keys_of(*spans: Span) -> list[Key]:
    return [
        (span.generation, span.incarnation, seq) for span in spans for seq in range(span.first, span.last + 1)
    ]


def test_a_jump_is_a_loss_and_a_new_run_begins_with_zero() -> None:
    history = History()
    for key in ((1, 0, 5), (1, 0, 6), (1, 0, 9), (2, 0, 1)):
        assert history.append(key)

    kept, lost = tuple(history.kept), history.losses((0, 0, 0), (9, 9, 9))

    assert history.known_from == (1, 0, 5)
    assert kept == (Span(1, 0, 5, 6), Span(1, 0, 9, 9), Span(2, 0, 1, 1))
    assert lost == (Loss(Span(1, 0, 7, 8), "unwritten"), Loss(Span(2, 0, 0, 0), "unwritten"))


def test_what_is_not_newer_is_ignored() -> None:
    history = History()

    assert [history.append(key) for key in ((2, 0, 5), (2, 0, 5), (2, 0, 4), (1, 9, 9))] == [
        True,
        False,
        False,
        False,
    ]


@given(KEYS, st.data())
def test_kept_and_lost_are_all_there_was(keys: list[Key], data: st.DataObject) -> None:
    history, evicted = History(), (0, 0, -1)
    causes: dict[Key, Cause] = {}
    appended = [key for key in keys if history.append(key)]
    for _ in range(data.draw(st.integers(0, 3))):
        cause: Cause = data.draw(st.sampled_from(["age", "size"]))
        until = data.draw(st.sampled_from([*appended, (0, 0, 0)]))
        history.evict(until, cause)
        causes |= {key: cause for key in appended if evicted < key <= until}
        evicted = max(evicted, until)
    start = data.draw(st.sampled_from([(0, 0, 0), *appended]))

    kept = [span for each in history.kept if (span := each.within(start, None))]
    lost = history.losses(start, (9, 9, 9))

    assert keys_of(*kept) == [key for key in appended if key > evicted and key >= start]
    assert keys_of(*(each.span for each in lost)) == sorted(keys_of(*(each.span for each in lost)))
    told = {key: loss.cause for loss in lost for key in keys_of(loss.span)}
    assert {key: cause for key, cause in told.items() if key in appended} == {
        key: cause for key, cause in causes.items() if key >= start
    }
    if appended:
        first, last = appended[0], appended[-1]
        known = {
            (*run, seq)
            for run in dict.fromkeys(key[:2] for key in appended)
            for seq in range(max(key[2] for key in appended if key[:2] == run) + 1)
            if first <= (*run, seq) <= last
        }
        assert {*told} | {*keys_of(*kept)} == {key for key in known if key >= start}


def test_the_number_of_spans_is_bounded_and_what_is_forgotten_is_unknown() -> None:
    history = History()
    for seq in range(0, 3 * MAX_SPANS, 2):
        history.append((1, 0, seq))

    kept, lost = tuple(history.kept), history.losses((0, 0, 0), (9, 9, 9))

    assert len(kept) <= MAX_SPANS
    assert len(lost) <= MAX_SPANS
    assert history.known_from is not None
    assert min(span.low for span in (*kept, *(each.span for each in lost))) >= history.known_from


def test_what_was_kept_piece_by_piece_is_one_span_after_a_restart() -> None:
    history = History()
    for seq in range(3000):
        history.load(Span(1, 0, seq, seq))
    history.load(Span(1, 1, 0, 4))

    assert list(history.kept) == [Span(1, 0, 0, 2999), Span(1, 1, 0, 4)]
    assert history.known_from == (1, 0, 0)
