"""What a device has kept and lost of one pipeline, as spans of keys. Pure.

Every prediction that the publisher was given is in exactly one span: kept, or lost with a cause. A jump of
the sequence number within a run is a loss, too: the device made a prediction that was never stored. After
the last one before the publisher died there may have been others, unless the run continues.
"""

from __future__ import annotations

from collections import deque

from streamfleet_core.peers.replay import MAX_CUTS, Cause, Key, Loss, Span, after
from streamfleet_core.protocol.limits import MAX_REPLAY_SPANS

MAX_SPANS = MAX_REPLAY_SPANS  # of each list; the oldest are forgotten


class History:
    """The spans of one pipeline. Keys only increase."""

    def __init__(self, known_from: Key | None = None) -> None:
        self.known_from = known_from  # the first key that is counted; None: none yet
        self.kept: deque[Span] = deque()
        self.lost: deque[Loss] = deque()  # sorted
        self.last: Key | None = None
        self.cuts: deque[Key] = deque(maxlen=MAX_CUTS)  # the last keys of runs that may have had more

    def append(self, key: Key) -> bool:
        """Record a prediction. False: it is not newer than the last one, and must be ignored."""
        last = self.last
        if not self._reach(key):
            return False
        newest = self.kept[-1] if self.kept else None
        if newest is not None and newest.high == last and key == after(last):
            self.kept[-1] = Span(newest.generation, newest.incarnation, newest.first, key[2])
            return True
        self.kept.append(Span(*key, key[2]))
        self._bound()
        return True

    def skip(self, key: Key) -> None:
        """Record a prediction that could not be stored."""
        if self._reach(key):
            self._lose(Loss(Span(*key, key[2]), "unwritten"))
            self._bound()

    def load(self, span: Span) -> None:
        """Record predictions that were kept before a restart."""
        if self.last is None:
            self.known_from = span.low if self.known_from is None else self.known_from
        elif span.low <= self.last:
            return
        else:
            self._count_jump(self.last, span.low)
        if self.kept and after(self.kept[-1].high) == span.low:
            span = Span(*self.kept.pop().low, span.last)
        self.kept.append(span)
        self.last = span.high
        self._bound()

    def cut(self) -> None:
        """Record that the publisher died: after the last prediction there may have been others."""
        if self.last is not None and self.last not in self.cuts:
            self.cuts.append(self.last)

    def cuts_since(self, start: Key, end: Key) -> tuple[Key, ...]:
        """The cuts in the run of `start` and in later ones, up to `end`."""
        return tuple(key for key in self.cuts if start[:2] <= key[:2] and key <= end)

    def evict(self, until: Key, cause: Cause) -> None:
        """Record that nothing up to this key is kept any longer."""
        while self.kept and self.kept[0].low <= until:
            span = self.kept.popleft()
            gone = span.within(span.low, until)
            assert gone is not None
            self._lose(Loss(gone, cause))
            if gone.last < span.last:
                self.kept.appendleft(Span(span.generation, span.incarnation, gone.last + 1, span.last))
                break

    def losses(self, start: Key, end: Key) -> tuple[Loss, ...]:
        """What is lost, from `start` to `end`, both included."""
        found = ((loss.span.within(start, end), loss.cause) for loss in self.lost)
        return tuple(Loss(span, cause) for span, cause in found if span is not None)

    def _reach(self, key: Key) -> bool:
        """Go on to a key, and count what is missing before it. False: it is not newer than the last one."""
        last = self.last
        if last is not None and key <= last:
            return False
        if last is None:
            self.known_from = key if self.known_from is None else self.known_from
        else:
            if self.cuts and self.cuts[-1] == last and key[:2] == last[:2]:
                self.cuts.pop()  # the run continues: a jump says how many are lost
            self._count_jump(last, key)
        self.last = key
        return True

    def _count_jump(self, last: Key, key: Key) -> None:
        first = last[2] + 1 if key[:2] == last[:2] else 0
        if key[2] > first:
            self._lose(Loss(Span(key[0], key[1], first, key[2] - 1), "unwritten"))

    def _lose(self, loss: Loss) -> None:
        """Insert a loss in order, joined with the one before it if both have one cause."""
        later: list[Loss] = []
        while self.lost and self.lost[-1].span.low > loss.span.low:
            later.append(self.lost.pop())
        before = self.lost[-1] if self.lost else None
        if before is not None and before.cause == loss.cause and _adjoin(before.span, loss.span):
            joined = Span(loss.span.generation, loss.span.incarnation, before.span.first, loss.span.last)
            self.lost[-1] = Loss(joined, loss.cause)
        else:
            self.lost.append(loss)
        self.lost.extend(reversed(later))

    def _bound(self) -> None:
        """Forget the oldest spans beyond the limit. What is forgotten is not counted any longer."""
        while len(self.kept) > MAX_SPANS:
            self._forget(self.kept[0])
        while len(self.lost) > MAX_SPANS:
            self._forget(self.lost[0].span)

    def _forget(self, span: Span) -> None:
        """Forget everything up to the end of a span."""
        while self.kept and self.kept[0].low <= span.high:
            self.kept.popleft()
        while self.lost and self.lost[0].span.low <= span.high:
            self.lost.popleft()
        until = after(span.high)
        self.known_from = until if self.known_from is None else max(self.known_from, until)


def _adjoin(before: Span, span: Span) -> bool:
    run = (span.generation, span.incarnation)
    return (before.generation, before.incarnation) == run and before.last + 1 == span.first
