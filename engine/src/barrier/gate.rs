//! The gate: everything one task knows about barriers, and the answers that follow from it.
//!
//! Always true:
//! - `rounds` rises by checkpoint and holds what is neither acknowledged nor aborted; everything else up to the newest
//!   snapshotted id is over, and announcements of it change nothing;
//! - `ready`, and each channel's `limit` and `notable`, are up to date after every call, so that asking costs nothing;
//! - a channel has at most one open capture, since an unaligned round is pending only alone.
//!
//! Facts come from one task, in the order in which it learns them; [`super`] describes the order of calls.

use super::CheckpointMode;
use super::aborts::Aborts;
use super::round::Round;
use super::{Announcement, BarrierMode, Capture, ChannelKind, Mark, Ready};
use thalweg_storage::CheckpointId;
use thalweg_storage::fault::Broken;

#[cfg(any(test, feature = "testing"))]
mod testing;

/// What one task knows about barriers.
#[derive(Debug)]
pub struct Gate {
    channels: Vec<Channel>,
    rounds: Vec<Round>,
    /// Rounds that are over, for their memory.
    spare: Vec<Round>,
    ready: Option<Ready>,
    ended: usize,
    finished: bool,
    newest_snapshot: Option<CheckpointId>,
    aborts: Aborts,
    fault: Broken,
    #[cfg(any(test, feature = "testing"))]
    transitions: super::transition::Transitions,
}

#[derive(Debug)]
struct Channel {
    kind: ChannelKind,
    consumed: u64,
    limit: u64,
    /// The next position at which a round or the stream reaches its bound.
    notable: u64,
    end: Option<u64>,
    ended: bool,
    capture: Option<OpenCapture>,
}

#[derive(Clone, Copy, Debug)]
struct OpenCapture {
    checkpoint: CheckpointId,
    next: u64,
}

impl Gate {
    /// The gate of a task with these input channels; none for a source.
    pub fn new(channels: Vec<ChannelKind>) -> Gate {
        let channel = |kind| Channel {
            kind,
            consumed: 0,
            limit: u64::MAX,
            notable: u64::MAX,
            end: None,
            ended: false,
            capture: None,
        };
        Gate {
            channels: channels.into_iter().map(channel).collect(),
            rounds: Vec::new(),
            spare: Vec::new(),
            ready: None,
            ended: 0,
            finished: false,
            newest_snapshot: None,
            aborts: Aborts::new(),
            fault: Broken::in_this_thread(),
            #[cfg(any(test, feature = "testing"))]
            transitions: Default::default(),
        }
    }

    /// The coordinator has triggered a checkpoint.
    ///
    /// A task without inputs, a finished one, one whose inputs have all ended, and any task in an unaligned round may
    /// snapshot from now on; the others wait for their cuts.
    pub fn trigger(&mut self, checkpoint: CheckpointId, mode: CheckpointMode) {
        let Some(index) = self.find_or_open(checkpoint) else {
            took!(self, TriggerOfOver);
            return;
        };
        if self.rounds[index].started {
            took!(self, TriggerAfterAnnouncement);
        } else {
            took!(self, TriggerFirst);
        }
        if self.rounds[index].snapshotted
            || (broken!(self, TriggerForSourcesOnly) && !self.channels.is_empty())
        {
            return;
        }
        self.rounds[index].triggered(mode);
        self.refresh();
    }

    /// The job drains, and `checkpoint`, which has just been triggered, is of what that leaves: the task ends before it snapshots it.
    pub fn end_first(&mut self, checkpoint: CheckpointId) {
        if let Some(index) = self.index_of(checkpoint) {
            self.rounds[index].end_first();
        }
    }

    /// The alignment timer of a checkpoint has run out, possibly before the task has heard of the checkpoint.
    ///
    /// Counts until the task has snapshotted, and not for a checkpoint triggered as aligned for good or at-least-once.
    pub fn expire(&mut self, checkpoint: CheckpointId) {
        if broken!(self, EarlyExpiryForgotten)
            && !self.rounds.iter().any(|round| round.checkpoint == checkpoint)
        {
            return;
        }
        let Some(index) = self.find_or_open(checkpoint) else {
            took!(self, ExpiryOfOver);
            return;
        };
        if broken!(self, FirstModeSticks) && self.rounds[index].started {
            return;
        }
        let round = &mut self.rounds[index];
        let mode_before = round.mode();
        round.expire();
        if round.snapshotted {
            took!(self, ExpiryAfterSnapshot);
        } else if !round.started {
            took!(self, ExpiryBeforeRound);
        } else if round.mode() == mode_before {
            took!(self, ExpiryWithoutEffect);
        } else {
            took!(self, ExpirySwitches);
        }
        self.refresh();
    }

    /// An announcement was drained from a channel's side ring.
    ///
    /// # Panics
    /// When its cut lies below what was consumed or captured already: data beyond an unseen cut were read.
    pub fn announce(&mut self, channel: usize, announcement: Announcement) {
        let Announcement { mark, cut } = announcement;
        match mark {
            Mark::EndOfStream => {
                self.channels[channel].end.get_or_insert(cut);
                if self.channels[channel].capture.is_some() {
                    took!(self, EndDuringCapture);
                } else if self.rounds.is_empty() {
                    took!(self, EndWithoutRound);
                } else {
                    took!(self, EndDuringRound);
                }
            }
            Mark::Barrier { checkpoint, mode } => {
                #[cfg(any(test, feature = "testing"))]
                self.break_newer_kills_older(checkpoint);
                let Some(index) = self.find_or_open(checkpoint) else {
                    #[cfg(any(test, feature = "testing"))]
                    self.break_obsolete_sets_bound(channel, cut);
                    took!(self, AnnouncementOfOver);
                    return;
                };
                let heard_before = self.rounds[index].started;
                if !heard_before {
                    took!(self, AnnouncementFirst);
                } else if self.rounds[index].snapshotted {
                    took!(self, AnnouncementAfterSnapshot);
                } else {
                    took!(self, AnnouncementAgain);
                }
                let round = &mut self.rounds[index];
                let first = round.cut(channel).is_none() && self.channels[channel].end.is_none();
                if first || broken!(self, LaterCutReplaces) {
                    assert!(
                        cut >= self.channels[channel].consumed || mode == BarrierMode::AtLeastOnce,
                        "checkpoint {checkpoint} announced at batch {cut} of channel {channel}, but {} are consumed",
                        self.channels[channel].consumed
                    );
                    round.set_cut(channel, cut);
                }
                let mode_before = round.mode();
                if !(round.snapshotted || broken!(self, FirstModeSticks) && heard_before) {
                    round.announced(mode);
                }
                if round.mode() != mode_before {
                    if heard_before {
                        took!(self, AnnouncementSwitches);
                    }
                    self.refresh();
                }
            }
        }
        self.settle_capture(channel);
        self.reach(channel);
        self.refresh_limit(channel);
        self.ready = self.next_ready();
    }

    /// The coordinator has aborted a checkpoint: it is forgotten and releases what it holds back, or, if its barrier has
    /// yet to come, it will be ignored. After the acknowledgement this changes nothing.
    pub fn abort(&mut self, checkpoint: CheckpointId) {
        let known = self.rounds.iter().position(|round| round.checkpoint == checkpoint);
        if known.is_some() || !broken!(self, EarlyAbortForgotten) {
            self.aborts.insert(checkpoint);
        }
        let Some(index) = known else {
            took!(self, AbortOfUnknown);
            return;
        };
        let round = &self.rounds[index];
        if round.open_captures > 0 {
            took!(self, AbortDuringCapture);
        } else if round.snapshotted {
            took!(self, AbortAfterSnapshot);
        } else if self.ready.is_some_and(|ready| ready.checkpoint == checkpoint) {
            took!(self, AbortOfReady);
        } else {
            took!(self, AbortDuringAlignment);
        }
        for channel in &mut self.channels {
            channel.capture.take_if(|capture| capture.checkpoint == checkpoint);
        }
        self.forget(index);
        if !broken!(self, AbortKeepsHolding) {
            self.refresh();
        }
    }

    /// The first `batches` batches of a channel are fully processed. A batch in progress does not count.
    ///
    /// # Panics
    /// When a batch was consumed that an open capture has not passed: it would be missing from the checkpoint.
    #[inline]
    pub fn consumed(&mut self, channel: usize, batches: u64) {
        let facts = &mut self.channels[channel];
        debug_assert!(batches >= facts.consumed, "channel {channel} goes back to {batches}");
        facts.consumed = batches;
        if let Some(capture) = &facts.capture {
            assert!(
                batches <= capture.next,
                "batch {} of channel {channel} was consumed before it was captured for checkpoint {}",
                capture.next,
                capture.checkpoint
            );
        }
        if batches >= facts.notable {
            self.reach(channel);
            self.ready = self.next_ready();
        }
    }

    /// Batches below this position may be taken; `u64::MAX` while nothing holds the channel back. Constant time.
    #[inline]
    pub fn limit(&self, channel: usize) -> u64 {
        self.channels[channel].limit
    }

    /// The round to snapshot now, if any. Constant time. The caller may delay it, and asks again: by then it may be gone
    /// (aborted), or have turned unaligned.
    #[inline]
    pub fn ready(&self) -> Option<Ready> {
        self.ready
    }

    /// The oldest round whose barrier has arrived, on one channel at least, and that is not snapshotted.
    pub fn aligning(&self) -> Option<CheckpointId> {
        self.rounds.iter().find(|round| round.heard() && !round.snapshotted).map(|round| round.checkpoint)
    }

    /// The round that [`Gate::ready`] names has been announced on all outputs and snapshotted.
    ///
    /// Releases the channels it held back; an unaligned round opens its captures at the consumed positions.
    ///
    /// # Panics
    /// When `checkpoint` is not the one that is ready.
    pub fn snapshotted(&mut self, checkpoint: CheckpointId) {
        let ready = self.ready.filter(|ready| ready.checkpoint == checkpoint);
        let ready = ready.unwrap_or_else(|| panic!("checkpoint {checkpoint} is not ready"));
        if ready.unaligned() && !self.finished {
            // An unaligned round is pending alone: the coordinator is done with whatever still captures.
            while let Some(older) = self.rounds.iter().find(|round| round.open_captures > 0) {
                took!(self, SnapshotEndsOlderCapture);
                self.abort(older.checkpoint);
            }
        }
        // A round of which only the timer was heard cannot start any more.
        while let Some(never) = self.rounds.iter().position(|r| r.checkpoint < checkpoint && !r.started) {
            took!(self, SnapshotDropsTimer);
            self.forget(never);
        }
        let index = self.index_of(checkpoint).expect("a ready round is known");
        #[cfg(any(test, feature = "testing"))]
        self.note_snapshot(index, ready);
        let round = &mut self.rounds[index];
        round.snapshotted = true;
        self.newest_snapshot = self.newest_snapshot.max(Some(checkpoint));
        if ready.unaligned() && !self.finished {
            for channel in 0..self.channels.len() {
                self.open_capture(index, channel);
            }
        }
        self.refresh();
    }

    /// The open capture of a channel.
    #[inline]
    pub fn capture(&self, channel: usize) -> Option<Capture> {
        let OpenCapture { checkpoint, next } = self.channels[channel].capture?;
        let index = self.index_of(checkpoint)?;
        let mut bound = self.bound(&self.rounds[index], channel);
        if broken!(self, CaptureEndsEarly) {
            bound = bound.map(|bound| bound.saturating_sub(1));
        }
        Some(Capture { checkpoint, next, bound })
    }

    /// Batches below `next` are captured. Closes the capture when that is its bound.
    pub fn captured(&mut self, channel: usize, next: u64) {
        let Some(capture) = &mut self.channels[channel].capture else { return };
        capture.next = capture.next.max(next);
        self.settle_capture(channel);
    }

    /// True when the task has snapshotted the round and none of its captures is open: the caller may acknowledge once its
    /// files are durable, older rounds first.
    pub fn complete(&self, checkpoint: CheckpointId) -> bool {
        self.index_of(checkpoint).is_some_and(|index| {
            let round = &self.rounds[index];
            round.snapshotted && (round.open_captures == 0 || broken!(self, CompleteAtSnapshot))
        })
    }

    /// The task has acknowledged the round; nothing more is expected of it.
    pub fn acknowledged(&mut self, checkpoint: CheckpointId) {
        debug_assert!(
            self.complete(checkpoint),
            "checkpoint {checkpoint} acknowledged before it is complete"
        );
        if let Some(index) = self.index_of(checkpoint) {
            took!(self, Acknowledged);
            self.forget(index);
        }
    }

    /// True when the channel has been processed up to its end of stream.
    pub fn ended(&self, channel: usize) -> bool {
        self.channels[channel].ended
    }

    /// True when every input has ended; so for a task without inputs, which knows itself when it is done.
    ///
    /// A round that the task has heard of is snapshotted first: its snapshot must not say that the task has finished when that
    /// of a producer says that it has not, or a restore would send records to a task that reads no more. In at-least-once rounds
    /// the task may have passed the cut, in others the end may lie at it, with no batch between.
    pub fn all_ended(&self) -> bool {
        self.ended == self.channels.len()
            && (self.channels.is_empty()
                || broken!(self, EndPassesBarrier)
                || !self.rounds.iter().any(Round::holds_back_the_end))
    }

    /// The task has finished, and announced the end of its outputs. It goes on to snapshot rounds, at once.
    pub fn finish(&mut self) {
        self.finished = true;
        if self.rounds.is_empty() {
            took!(self, FinishWithoutRound);
        } else {
            took!(self, FinishDuringRound);
        }
        self.refresh();
    }

    /// True when a round that the caller has snapshotted, and not acknowledged yet, is dead: its half can be dropped.
    ///
    /// Exact for such rounds; for others it says whether an abort has been heard, as far back as is remembered.
    pub fn is_aborted(&self, checkpoint: CheckpointId) -> bool {
        self.index_of(checkpoint).is_none() && self.aborts.contains(checkpoint)
    }

    fn index_of(&self, checkpoint: CheckpointId) -> Option<usize> {
        self.rounds.iter().position(|round| round.checkpoint == checkpoint)
    }

    /// The round of a checkpoint, opened if it is new; None for one that is over.
    ///
    /// An unknown id at or below the newest snapshot is over: had it been alive, each producer would have announced it
    /// first (aligned), or no younger one could have been triggered beside it (unaligned).
    fn find_or_open(&mut self, checkpoint: CheckpointId) -> Option<usize> {
        let index = self.rounds.partition_point(|round| round.checkpoint < checkpoint);
        if self.rounds.get(index).is_some_and(|round| round.checkpoint == checkpoint) {
            return Some(index);
        }
        if self.newest_snapshot >= Some(checkpoint) || self.aborts.contains(checkpoint) {
            return None;
        }
        if index < self.rounds.len() {
            took!(self, OlderRoundHeardLater);
        } else if self.rounds.iter().any(|round| !round.snapshotted) {
            took!(self, RoundsOverlap);
        }
        let kinds = self.channels.iter().map(|channel| channel.kind);
        self.rounds.insert(index, Round::new(checkpoint, kinds, self.spare.pop()));
        for channel in 0..self.channels.len() {
            if self.channels[channel].end.is_some() {
                self.reach(channel);
            }
        }
        Some(index)
    }

    fn forget(&mut self, index: usize) {
        let round = self.rounds.remove(index);
        self.spare.push(round);
    }

    /// Where a round's data end on a channel: at its own cut, else at the end of the stream.
    fn bound(&self, round: &Round, channel: usize) -> Option<u64> {
        round.cut(channel).or(self.channels[channel].end)
    }

    /// Marks what the channel's position has reached, and finds the next position that matters.
    fn reach(&mut self, channel: usize) {
        let mut notable = u64::MAX;
        let consumed = self.channels[channel].consumed;
        for index in 0..self.rounds.len() {
            let round = &self.rounds[index];
            let Some(bound) = self.bound(round, channel) else { continue };
            let kind = self.channels[channel].kind;
            let seen_is_enough = (broken!(self, AtLeastOnceWhenAnnounced)
                && round.mode() == BarrierMode::AtLeastOnce)
                || (broken!(self, EndWhenSeen) && round.cut(channel).is_none());
            if consumed >= bound || seen_is_enough {
                if !self.rounds[index].reached(channel) {
                    took!(self, CutReached);
                }
                self.rounds[index].reach(channel, kind);
            } else if !round.reached(channel) {
                notable = notable.min(bound);
            }
            self.rounds[index].bounded(channel, kind);
        }
        let facts = &mut self.channels[channel];
        if let Some(end) = facts.end.filter(|_| !facts.ended) {
            if consumed >= end {
                facts.ended = true;
                self.ended += 1;
                took!(self, EndReached);
            } else {
                notable = notable.min(end);
            }
        }
        facts.notable = notable;
    }

    /// Brings the answers up to date: the round to snapshot, and how far each channel may be read.
    fn refresh(&mut self) {
        self.ready = self.next_ready();
        for channel in 0..self.channels.len() {
            self.refresh_limit(channel);
        }
    }

    /// The channel must not be read past the nearest cut of the rounds that hold back.
    fn refresh_limit(&mut self, channel: usize) {
        let facts = &mut self.channels[channel];
        let passes = |round: &Round| {
            broken!(self, NeverHoldsBack)
                || broken!(self, OthersPassTheirCuts)
                    && round.mode() == BarrierMode::Unaligned
                    && facts.kind != ChannelKind::AlignedOnly
        };
        let holding = self.rounds.iter().filter(|round| round.holds_back() && !passes(round));
        facts.limit = holding.filter_map(|round| round.cut(channel)).min().unwrap_or(u64::MAX);
    }

    /// The oldest round that waits for its snapshot, if its inputs are where it wants them. Younger ones wait for it.
    fn next_ready(&self) -> Option<Ready> {
        let mut waiting = self.rounds.iter().filter(|round| round.started && !round.snapshotted);
        if broken!(self, YoungerFirst) {
            let round = waiting.rfind(|round| round.aligned())?;
            return Some(Ready { checkpoint: round.checkpoint, mode: round.mode() });
        }
        let round = waiting.next()?;
        let snapshots = round.aligned()
            || (self.finished && !broken!(self, FinishChangesNothing))
            || (broken!(self, AlignedOnlyIgnored) && round.mode() == BarrierMode::Unaligned);
        snapshots.then(|| Ready { checkpoint: round.checkpoint, mode: round.mode() })
    }

    /// Opens the capture of one channel for a round that snapshots now.
    fn open_capture(&mut self, index: usize, channel: usize) {
        let facts = &self.channels[channel];
        if facts.kind == ChannelKind::AlignedOnly || broken!(self, EndedNotCaptured) && facts.end.is_some() {
            return;
        }
        let mut next = facts.consumed;
        if broken!(self, CaptureStartsLate) {
            next += 1;
        }
        let bound = self.bound(&self.rounds[index], channel);
        if bound.is_none() {
            took!(self, CaptureBeforeAnnouncement);
        } else if bound > Some(next) {
            took!(self, CaptureToKnownCut);
        } else {
            took!(self, CaptureOfNothing);
        }
        if bound.is_none_or(|bound| next < bound) {
            let checkpoint = self.rounds[index].checkpoint;
            self.channels[channel].capture = Some(OpenCapture { checkpoint, next });
            self.rounds[index].open_captures += 1;
        }
    }

    /// Closes the channel's capture if it has come to its bound.
    fn settle_capture(&mut self, channel: usize) {
        let Some(Capture { checkpoint, next, bound: Some(bound) }) = self.capture(channel) else { return };
        assert!(
            next <= bound,
            "checkpoint {checkpoint} ends at batch {bound} of channel {channel}, but {next} are captured"
        );
        if next >= bound {
            took!(self, CaptureComplete);
            self.channels[channel].capture = None;
            let index = self.index_of(checkpoint).expect("an open capture belongs to a known round");
            self.rounds[index].open_captures -= 1;
        }
    }
}
