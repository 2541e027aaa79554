"""The complete order of one pipeline: what to deliver, what to ask for, and what is gone. Pure.

Predictions arrive live and as replays, with losses, in any order and more than once. Each round asks all
devices for what comes after the last delivered prediction. A device answers with predictions and with a
statement of what it sent and what it has lost. `now` is in monotonic seconds.

Rule for several devices: generations are delivered in order. If the device of an older one does not answer
within `patience` seconds, what it has is declared gone, and never delivered later.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamfleet.complete.values import Gap, GapCause, Position
from streamfleet_core.peers.replay import (
    MAX_GENERATION,
    Holder,
    Key,
    ReplayAnswer,
    ReplayRequest,
    Span,
    after,
)

# Predictions that wait for earlier ones, and their bytes. Beyond that, the latest are asked for later.
MAX_PENDING = 4096
MAX_PENDING_BYTES = 16 * 1024**2
# Seconds without a message of a round, after which it is asked for once more, and the most after several:
# where many ask, a device needs longer, and a request that is made again loses its turn.
RETRY = (1.0, 8.0)
QUICK = 0.1  # the same where the last rounds were never silent for long: then what is silent was lost
PATIENT = 4  # times the silence of the last rounds
LONGEST = 60.0  # seconds to wait for a device that is there and does not answer
IDLE = (5.0, 60.0)  # seconds of silence after which the first and the later rounds ask for what is missing
RESET = 10.0  # seconds in which only old keys arrive: then the fleet was reset
ATTEMPTS = 8  # rounds in a row without a result
MOST_AT_ONCE = 255  # predictions to ask for by number

T = TypeVar("T")
BEFORE_ALL: Key = (0, 0, -1)  # the position of a subscriber that wants all that is kept


@dataclass(slots=True)
class _Round:
    request: ReplayRequest
    reached: Key  # when it began
    began: float
    heard: float  # when it was asked, or its last message arrived
    retry: float
    silence: float = 0.0  # the longest time between two messages, or before the first
    is_answered: bool = False  # whether any message arrived
    answers: dict[str, ReplayAnswer] = field(default_factory=dict)  # by device
    holders: tuple[Holder, ...] | None = None  # None: unknown yet

    def hear(self, now: float) -> None:
        """Note a message of this round."""
        self.silence = max(self.silence, now - self.heard)
        self.heard = now

    def is_fulfilled(self, reached: Key) -> bool:
        """Whether all that was asked for by number is there: its end need not be waited for."""
        generation, incarnation, first = self.request.start
        last = (generation, incarnation, first + self.request.count - 1)
        return self.request.count > 0 and reached >= last


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    item: T
    device: str
    size: int


class PipelineOrder(Generic[T]):
    """The order of one pipeline.

    Args:
        position: the last delivered prediction; None: begin with the next live one.
        patience: seconds of silence after which a device is away.
        heard: when a device was last heard, whatever it sent.
        token: makes the 8 hexadecimal digits of each request.
        room: bytes of predictions that may wait for earlier ones.
    """

    def __init__(
        self,
        pipeline_id: str,
        position: Position | None,
        *,
        patience: float,
        heard: Callable[[str], float],
        token: Callable[[], str],
        now: float,
        room: int = MAX_PENDING_BYTES,
    ) -> None:
        self.position = position
        self._pipeline_id = pipeline_id
        self._patience = patience
        self._heard = heard
        self._token = token
        self._pending: dict[Key, _Waiting[T]] = {}
        self._keys: list[Key] = []  # of the pending ones, sorted
        self._room = room
        self._size = 0  # bytes of the pending ones
        self._ready: deque[tuple[Position, T | Gap]] = deque()
        self._reached = BEFORE_ALL if position is None else position.key  # with what is in `_ready`
        self._device = None if position is None else position.device  # of `_reached`
        self._round: _Round | None = None
        self._attempts = 0  # rounds without a result
        self._silence: float | None = None  # within the last rounds; None: none was answered yet
        self._fresh_at = now  # when something new arrived
        self._idle = 0.0 if position is not None else IDLE[0]  # seconds until the next round without a reason
        self._is_new = position is None

    @property
    def request(self) -> ReplayRequest | None:
        """What to ask for at the moment."""
        return None if self._round is None else self._round.request

    # inputs -----------------------------------------------------------------------------------------------

    def receive(self, key: Key, item: T, device: str, now: float, *, live: bool, size: int = 0) -> None:
        """A prediction of `size` bytes arrived."""
        if self._round is not None and not live:
            self._round.hear(now)
            self._round.is_answered = True
        if self._is_new:
            self._is_new = False
            self._reached, self._device = (key[0], key[1], key[2] - 1), device
        if key <= self._reached:
            if not live or now - self._fresh_at <= RESET:
                return
            self._reset(key, device)
        if live:
            self._fresh_at, self._idle = now, IDLE[0]
        if key in self._pending:
            return
        if self._round is not None and not self._keys:
            self._round.began = now  # until now there was nothing to wait for
        insort(self._keys, key)
        self._pending[key] = _Waiting(item, device, size)
        self._size += size
        while len(self._keys) > 1 and (len(self._keys) > MAX_PENDING or self._size > self._room):
            self._size -= self._pending.pop(self._keys.pop()).size
            self._idle = 0.0  # it is known to exist: ask for it as soon as there is room

    def hold(self, token: str, holders: tuple[Holder, ...], now: float) -> None:
        """The relay says which devices may answer."""
        if self._round is not None and self._round.request.token == token:
            self._round.hear(now)
            self._round.holders = holders

    def answer(self, token: str, answer: ReplayAnswer, generation: int, now: float) -> None:
        """The answer of a device arrived. Ignored if the device never had the pipeline in this generation.

        `generation`: of the header. The relay lets only those pass that the sender has had.
        """
        current = self._round
        if current is None or current.request.token != token or current.holders is None:
            return
        own = [each for each in current.holders if each.device == answer.device]
        if any(each.first <= generation <= each.last for each in own):
            current.hear(now)
            current.is_answered = True
            current.answers[answer.device] = answer

    def take(self, now: float, *, may_ask: bool = True) -> T | Gap | None:
        """The next prediction or gap; None: there is none yet. `may_ask`: whether to begin a request."""
        while not self._ready:
            if self._take_successor():
                continue
            if not self._advance(now, may_ask):
                return None
        self.position, item = self._ready.popleft()
        return item

    # order ------------------------------------------------------------------------------------------------

    def _take_successor(self) -> bool:
        """Deliver the prediction that follows directly."""
        if not self._keys or self._keys[0] != after(self._reached):
            return False
        self._deliver(self._keys[0])
        if self._round is not None and (
            self._round.is_fulfilled(self._reached) or not (self._round.is_answered or self._keys)
        ):
            self._end_round()  # it asks for what has arrived
        return True

    def _advance(self, now: float, may_ask: bool) -> bool:
        """Begin, repeat or end a round. Returns whether something may be ready now."""
        current = self._round
        if current is None:
            if may_ask and (self._keys or (not self._is_new and now - self._fresh_at >= self._idle)):
                self._ask(now)
            return False
        if self._is_complete(current, now):
            return self._settle(current, now)
        if now - current.heard >= current.retry:
            self._ask(now)
            assert self._round is not None
            self._round.began, self._round.reached = current.began, current.reached
            self._round.answers = current.answers
            self._round.holders = current.holders
            self._round.retry = min(2 * current.retry, RETRY[1])
        return False

    def _ask(self, now: float) -> None:
        count = 0  # until the next one that is here, if it is of the same run
        if self._keys and self._keys[0][:2] == self._reached[:2]:
            count = min(MOST_AT_ONCE, self._keys[0][2] - self._reached[2] - 1)
        request = ReplayRequest(self._pipeline_id, after(self._reached), self._token(), count)
        first, _ = RETRY
        retry = first if self._silence is None else min(first, max(QUICK, PATIENT * self._silence))
        self._round = _Round(request, self._reached, now, now, retry)

    def _end_round(self) -> None:
        """End the round, and learn from it how long a round is silent."""
        current, self._round = self._round, None
        if current is not None and current.is_answered:
            before = current.silence if self._silence is None else self._silence
            self._silence = max(current.silence, 0.8 * before)

    def _silent(self, current: _Round) -> list[str]:
        """The devices that may have predictions between the last key and the next one, and did not answer."""
        answered = current.answers.keys()
        first, last = self._reached[0], MAX_GENERATION
        if self._keys:
            last = self._keys[0][0]
            if self._keys[0][:2] == self._reached[:2]:  # a run belongs to one device
                device = self._pending[self._keys[0]].device
                return [] if device in answered else [device]
        holders = current.holders or ()
        expected = {each.device for each in holders if each.first <= last and first <= each.last}
        return sorted(expected - answered)

    def _is_complete(self, current: _Round, now: float) -> bool:
        waited = now - current.began
        if waited >= LONGEST:
            return True
        silent = self._silent(current)
        if not silent:
            return current.holders is not None or waited >= self._patience
        return all(now - max(current.began, self._heard(each)) >= self._patience for each in silent)

    def _settle(self, current: _Round, now: float) -> bool:
        """Deliver what the answers explain. Returns whether anything is ready."""
        limits = [each.until for each in current.answers.values() if not each.done]
        if self._attempts >= ATTEMPTS:  # a device that never gets on holds up nothing
            limits = [until for until in limits if until > self._reached]
        limit = min(limits, default=None)
        before = self._reached
        missing = self._walk(current, limit)
        # What arrived during the round may be delivered already.
        progressed = self._reached != current.reached
        is_stuck = not progressed and (missing or limit is not None)
        self._attempts = self._attempts + 1 if is_stuck else 0
        self._end_round()
        if self._keys and self._keys[0] == after(self._reached):
            pass  # what is asked for next depends on what follows
        elif missing or limit is not None:
            self._ask(now)
        elif not self._keys:
            self._fresh_at = now
            self._idle = min(max(IDLE[0], 2 * self._idle), IDLE[1])
        return self._reached != before

    def _walk(self, current: _Round, limit: Key | None) -> bool:
        """Go through what arrived and what the answers say. Returns whether something must be asked again."""
        statements = deque(sorted(_statements(current, after(self._reached), limit)))
        while True:
            while statements and statements[0].span.high <= self._reached:
                statements.popleft()
            statement = statements[0] if statements else None
            found = self._keys[0] if self._keys and (limit is None or self._keys[0] <= limit) else None
            low = None if statement is None else max(statement.span.low, self._reached_in(statement.span))
            if found is not None and (low is None or found <= low):
                if not self._explain(current, found):
                    return True
                self._deliver(found)
            elif statement is None or low is None:
                return False
            elif statement.cause is None and self._attempts < ATTEMPTS:
                return True  # the device has sent it, and it was lost on the way
            else:
                if not self._explain(current, low):
                    return True
                self._lose(statement, low, found)

    def _reached_in(self, span: Span) -> Key:
        """The next key, if the span is of the run that was reached."""
        run = (span.generation, span.incarnation)
        return after(self._reached) if run == self._reached[:2] else span.low

    def _explain(self, current: _Round, key: Key) -> bool:
        """Account for what is between the last key and this one, of which no device says anything.

        Returns False if a later answer may explain it.
        """
        reached = self._reached
        if reached == BEFORE_ALL:
            return True
        is_same_run = key[:2] == reached[:2]
        first = reached[2] + 1 if is_same_run else 0
        device = self._pending[key].device if key in self._pending else None
        answer = current.answers.get(device or "")
        is_older = answer is not None and answer.until < key
        if key[2] > first and is_older and self._attempts < ATTEMPTS:
            return False
        if not is_same_run:
            self._add_unknown(current, key)
        if key[2] > first:
            cause: GapCause = "unwritten"
            if answer is None:
                cause = "away"
            elif answer.known_from is not None and answer.known_from >= (key[0], key[1], first + 1):
                cause = "restart"
            self._add_gap((key[0], key[1], first), key[2] - first, cause, device)
        return True

    def _add_unknown(self, current: _Round, key: Key) -> None:
        """Tell of the devices that may have had something between two runs, and cannot say."""
        reached = self._reached
        holders = current.holders or ()
        away = {each.device for each in holders if each.first <= key[0] and reached[0] <= each.last}
        away -= current.answers.keys()
        if self._device is not None and self._device not in {each.device for each in holders}:
            away.add(self._device)  # it was removed from the fleet
        for device in sorted(away):
            self._insert_unknown(reached, "away", device)
        known = current.answers.get(self._device or "")
        if known is not None and known.known_from is not None and known.known_from > after(reached):
            self._insert_unknown(reached, "restart", self._device)
        elif known is not None and any(cut[:2] == reached[:2] for cut in known.cut_off):
            self._insert_unknown(reached, "unwritten", self._device)

    # outputs ----------------------------------------------------------------------------------------------

    def _deliver(self, key: Key) -> None:
        self._keys.pop(0)
        waiting = self._pending.pop(key)
        self._size -= waiting.size
        self._reached, self._device = key, waiting.device
        self._ready.append((Position(*key, waiting.device), waiting.item))

    def _lose(self, statement: _Statement, low: Key, found: Key | None) -> None:
        high = statement.span.high if statement.cause is not None else low  # the next one may arrive
        if found is not None and found <= high:
            high = (found[0], found[1], found[2] - 1)
        if self._reached != BEFORE_ALL:
            self._add_gap(low, high[2] - low[2] + 1, statement.cause or "unwritten", statement.device)
        self._reached, self._device = high, statement.device

    def _add_gap(self, first: Key, count: int, cause: GapCause, device: str | None) -> None:
        gap = Gap(
            pipeline_id=self._pipeline_id,
            count=count,
            cause=cause,
            device=device,
            generation=first[0],
            incarnation=first[1],
            first=first[2],
        )
        self._ready.append((Position(first[0], first[1], first[2] + count - 1, device), gap))

    def _insert_unknown(self, reached: Key, cause: GapCause, device: str | None) -> None:
        gap = Gap(
            pipeline_id=self._pipeline_id,
            count=None,
            cause=cause,
            device=device,
            generation=reached[0],
            incarnation=reached[1],
            first=None,
        )
        self._ready.append((Position(*reached, self._device), gap))

    def _reset(self, key: Key, device: str) -> None:
        self._insert_unknown((key[0], key[1], max(0, key[2] - 1)), "reset", None)
        self._reached, self._device = (key[0], key[1], key[2] - 1), device
        self._pending.clear()
        self._keys.clear()
        self._size = 0
        self._round = None


@dataclass(frozen=True, slots=True, order=True)
class _Statement:
    """What a device says about successive predictions: it sent them, or they are lost."""

    span: Span
    device: str
    cause: GapCause | None = field(compare=False)  # None: sent


def _statements(current: _Round, start: Key, limit: Key | None) -> Iterator[_Statement]:
    """What each device says about the generations that it had."""
    for holder in current.holders or ():
        answer = current.answers.get(holder.device)
        if answer is None:
            continue
        said: list[tuple[Span, GapCause | None]] = [(span, None) for span in answer.sent]
        said += [(loss.span, loss.cause) for loss in answer.lost]
        for span, cause in said:
            part = span.within(start, limit)
            if part is not None and holder.first <= part.generation <= holder.last:
                yield _Statement(part, holder.device, cause)
