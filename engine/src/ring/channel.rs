//! The two ends of a channel.
//!
//! Always true:
//! - batches arrive in the order of their records, and `pushed` counts every batch ever put into the ring, with the
//!   restored ones as batches `0..r`;
//! - the generations of batches never fall from one to the next, and a new batch's is above that of all restored ones;
//! - an announcement is in the side ring before any batch at or behind its cut is in the data ring, so a consumer
//!   that reads availability first and the side ring second knows every cut up to what it sees;
//! - `owned_batches` counts every batch that the sender has made and that is not known to be dropped, wherever it is;
//!   what they exceed the guaranteed ones by is taken from the pool;
//! - the sender never refuses a record: what finds no room waits in its outbox, which a checkpoint captures. Whoever
//!   drives it stops feeding it while it is [`Sender::is_blocked`].

use super::{Announcement, BatchPool, Cursor, Look, doorbell::Doorbell};
use crate::clock::Nanos;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Batches that every channel may hold whatever the pool says: one being filled, one on its way.
const GUARANTEED_BATCHES: usize = 2;

/// Sizes and surroundings of a channel.
#[derive(Clone)]
pub struct ChannelSpec {
    /// Batches that the ring holds.
    pub ring_batches: usize,
    /// Records that a batch holds.
    pub batch_records: usize,
    /// Announcements that the side ring holds: two per concurrent checkpoint, and two.
    pub side_entries: usize,
    /// Budget of floating batches.
    pub pool: Arc<BatchPool>,
    /// Rung when there is something new for the consumer.
    pub consumer: Doorbell,
    /// Rung when room has been freed for the producer.
    pub producer: Doorbell,
}

/// In-flight batches of a checkpoint, by rising generation.
pub struct Restored<T> {
    batches: VecDeque<Vec<T>>,
    /// End of each generation among the batches, and its number.
    generations: Vec<(u64, u32)>,
    /// What is sent from now on has this generation: the same for all channels of an edge, above all restored ones.
    next_generation: u32,
}

impl<T> Restored<T> {
    /// No batches yet; what is sent after all that will be added has `next_generation`.
    pub fn before(next_generation: u32) -> Self {
        Restored { batches: VecDeque::new(), generations: Vec::new(), next_generation }
    }

    /// Adds a batch behind the others.
    ///
    /// # Panics
    /// When `generation` lies below one that was added before, or is not below that of what is sent next.
    pub fn push(&mut self, generation: u32, batch: Vec<T>) {
        assert!(generation < self.next_generation, "restored data are older than new ones");
        self.batches.push_back(batch);
        let end = self.batches.len() as u64;
        match self.generations.last_mut() {
            Some((last_end, last)) if *last == generation => *last_end = end,
            last => {
                assert!(last.is_none_or(|(_, last)| *last < generation), "generations rise");
                self.generations.push((end, generation));
            }
        }
    }
}

impl<T> Default for Restored<T> {
    fn default() -> Self {
        Restored::before(0)
    }
}

/// Makes a channel. `restored` are what the consumer takes first.
pub fn channel<T>(spec: ChannelSpec, restored: Restored<T>) -> (Sender<T>, Receiver<T>) {
    let Restored { batches: restored, generations, next_generation } = restored;
    let (ring_in, ring_out) = rtrb::RingBuffer::new(spec.ring_batches);
    // As many as can be on their way at once, and the current one.
    let (empties_in, empties_out) = rtrb::RingBuffer::new(spec.ring_batches + 2);
    let (side_in, side_out) = rtrb::RingBuffer::new(spec.side_entries);
    let pushed = if broken!(RestoredUncounted) { 0 } else { restored.len() as u64 };
    let dropped_batches = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        ring: ring_in,
        empties: empties_out,
        side: side_in,
        open: Vec::new(),
        open_is_owned: false,
        open_since: None,
        outbox: VecDeque::new(),
        starved: false,
        pushed,
        generation: next_generation,
        owned_batches: 0,
        dropped_batches: Arc::clone(&dropped_batches),
        batch_records: spec.batch_records,
        pool: spec.pool,
        doorbell: spec.consumer,
    };
    let receiver = Receiver {
        ring: ring_out,
        empties: empties_in,
        side: side_out,
        restored,
        generations,
        next_generation,
        current: Cursor::default(),
        holds_batch: false,
        dropped_batches,
        taken: 0,
        visible: pushed,
        doorbell: spec.producer,
    };
    (sender, receiver)
}

/// The producing end.
pub struct Sender<T> {
    ring: rtrb::Producer<Vec<T>>,
    empties: rtrb::Consumer<Vec<T>>,
    side: rtrb::Producer<Announcement>,
    open: Vec<T>,
    /// `open` is among the owned batches. A plain vector that records of a half done input record grow is not, yet.
    open_is_owned: bool,
    open_since: Option<Nanos>,
    outbox: VecDeque<Vec<T>>,
    /// The pool had no batch to follow the last full one.
    starved: bool,
    pushed: u64,
    generation: u32,
    owned_batches: usize,
    /// Batches that found the reverse ring full and were dropped by the receiver.
    dropped_batches: Arc<AtomicUsize>,
    batch_records: usize,
    pool: Arc<BatchPool>,
    doorbell: Doorbell,
}

impl<T> Sender<T> {
    /// Takes a record; it leaves with its batch.
    #[inline(always)]
    pub fn push(&mut self, record: T) {
        if self.open.len() == self.open.capacity() {
            self.next_batch();
        }
        self.open.push(record);
        if self.open.len() == self.batch_records {
            self.seal();
        }
    }

    /// True when full batches wait for room, or no memory is left for another batch.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.starved || !self.outbox.is_empty()
    }

    /// Batches pushed so far, restored ones included: the cut of an announcement made now.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Generation of everything that is sent: above that of all restored data of the edge.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// True when the side ring has room.
    pub fn can_announce(&self) -> bool {
        !self.side.is_full()
    }

    /// Announces `announcement`, whose cut is [`Sender::pushed`].
    ///
    /// # Panics
    /// When the side ring is full: ask [`Sender::can_announce`] first.
    pub fn announce(&mut self, announcement: Announcement) {
        assert_eq!(announcement.cut, self.pushed, "a cut lies elsewhere than where it is announced");
        assert!(self.side.push(announcement).is_ok(), "announced into a full side ring");
        if !broken!(AnnouncesSilently) {
            self.doorbell.ring();
        }
    }

    /// Sends waiting batches, and the batch being filled if its consumer has nothing to do, if its oldest record is
    /// older than `timeout`, or if `force`. Returns when a later call should come because of the timeout.
    pub fn flush(&mut self, now: Nanos, timeout: Duration, force: bool) -> Option<Nanos> {
        self.drain_outbox();
        self.disown_dropped();
        if self.starved {
            self.next_batch();
        }
        if self.open.is_empty() || !self.outbox.is_empty() {
            return None;
        }
        let since = *self.open_since.get_or_insert(now);
        let due = since.after(timeout);
        // An empty ring means that the consumer has taken all there was.
        if force || now >= due || self.ring.slots() == self.ring.buffer().capacity() {
            self.seal();
            return None;
        }
        Some(due)
    }

    /// True when every record has left.
    pub fn is_drained(&self) -> bool {
        self.open.is_empty() && self.outbox.is_empty()
    }

    /// The records that have not left, oldest first.
    pub fn unsent(&self) -> impl Iterator<Item = &[T]> {
        self.outbox
            .iter()
            .map(Vec::as_slice)
            .chain(std::iter::once(self.open.as_slice()))
            .filter(|b| !b.is_empty())
    }

    #[cold]
    fn next_batch(&mut self) {
        if self.open.capacity() >= self.batch_records {
            self.starved = false;
            return;
        }
        self.disown_dropped();
        while let Ok(empty) = self.empties.pop() {
            if self.owned_batches > GUARANTEED_BATCHES && self.pool.is_low() {
                self.disown();
                continue;
            }
            self.replace_open(empty);
            return;
        }
        let granted = self.owned_batches < GUARANTEED_BATCHES || self.pool.acquire(self.batch_bytes());
        if granted {
            self.owned_batches += 1;
            self.replace_open(Vec::with_capacity(self.batch_records));
        } else {
            // Records may still come, of an input record that is half done: `push` grows a plain vector for them.
            self.starved = true;
        }
    }

    fn replace_open(&mut self, mut empty: Vec<T>) {
        empty.reserve_exact(self.batch_records);
        empty.append(&mut self.open);
        self.open = empty;
        self.open_is_owned = true;
        self.starved = false;
    }

    /// Gives up one owned batch, and its part of the pool if it had one.
    fn disown(&mut self) {
        if self.owned_batches > GUARANTEED_BATCHES {
            self.pool.release(self.batch_bytes());
        }
        self.owned_batches = self.owned_batches.saturating_sub(1);
    }

    /// Gives up what the receiver has dropped since. Only a burst of batches can overfill the reverse ring.
    fn disown_dropped(&mut self) {
        // Relaxed: the count guards no other memory.
        if self.dropped_batches.load(Ordering::Relaxed) > 0 {
            for _ in 0..self.dropped_batches.swap(0, Ordering::Relaxed) {
                self.disown();
            }
        }
    }

    /// Closes the open batch and sends it, or lets it wait behind those that wait already.
    fn seal(&mut self) {
        let batch = std::mem::take(&mut self.open);
        self.open_since = None;
        if !std::mem::take(&mut self.open_is_owned) {
            // It is there and will circulate: the pool's debt makes others give batches back.
            self.owned_batches += 1;
            if self.owned_batches > GUARANTEED_BATCHES {
                self.pool.charge(self.batch_bytes());
            }
        }
        self.outbox.push_back(batch);
        self.drain_outbox();
        self.next_batch();
    }

    fn drain_outbox(&mut self) {
        let mut sent = false;
        while let Some(batch) = self.outbox.pop_front() {
            match self.ring.push(batch) {
                Ok(()) => {
                    self.pushed += 1;
                    sent = true;
                }
                Err(rtrb::PushError::Full(batch)) => {
                    self.outbox.push_front(batch);
                    break;
                }
            }
        }
        if sent {
            self.doorbell.ring();
        }
    }

    fn batch_bytes(&self) -> usize {
        self.batch_records * size_of::<T>().max(1)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let floating = self.owned_batches.saturating_sub(GUARANTEED_BATCHES);
        self.pool.release(floating * self.batch_bytes());
    }
}

/// The consuming end.
pub struct Receiver<T> {
    ring: rtrb::Consumer<Vec<T>>,
    empties: rtrb::Producer<Vec<T>>,
    side: rtrb::Consumer<Announcement>,
    restored: VecDeque<Vec<T>>,
    /// Positions at which each restored generation ends, and its number.
    generations: Vec<(u64, u32)>,
    next_generation: u32,
    current: Cursor<T>,
    /// `current` holds a batch's memory, consumed or not.
    holds_batch: bool,
    dropped_batches: Arc<AtomicUsize>,
    taken: u64,
    visible: u64,
    doorbell: Doorbell,
}

impl<T> Receiver<T> {
    /// Looks for new batches, then for announcements, in this order; gives the latter to `on_announcement`.
    ///
    /// Afterwards every announcement whose cut is at most [`Receiver::visible`] has been given out.
    #[inline]
    pub fn look(&mut self, mut on_announcement: impl FnMut(Announcement)) {
        let end = self.ring_end();
        let mut look = Look::begin(end);
        while let Ok(announcement) = self.side.pop() {
            look.announced(announcement.cut);
            on_announcement(announcement);
        }
        if look.rereads() {
            // A producer whose announcement found the side ring full waits for this room.
            self.doorbell.ring();
        }
        let end = if look.rereads() { self.ring_end() } else { end };
        self.visible = look.end(end).end;
    }

    fn ring_end(&self) -> u64 {
        self.taken + (self.restored.len() + self.ring.slots()) as u64
    }

    /// Generation of the batch at `position`: how many restores it came after, counted over those whose data had not all
    /// been processed.
    pub fn generation(&self, position: u64) -> u32 {
        let restored = self.generations.iter().find(|(end, _)| position < *end);
        restored.map_or(self.next_generation, |(_, generation)| *generation)
    }

    /// Generation of the next restored batch; `None` when all of them are taken.
    pub fn restored_generation(&self) -> Option<u32> {
        (self.taken < self.restored_end()).then(|| self.generation(self.taken))
    }

    /// Batches below this position are restored ones.
    fn restored_end(&self) -> u64 {
        self.generations.last().map_or(0, |(end, _)| *end)
    }

    /// Position up to which batches may be taken as far as the rings are concerned.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// Batches taken, the current one included.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Batches whose records have all been consumed.
    pub fn consumed(&self) -> u64 {
        self.taken - u64::from(!self.current.is_empty())
    }

    /// The batch being consumed.
    #[inline(always)]
    pub fn current(&mut self) -> &mut Cursor<T> {
        &mut self.current
    }

    /// Makes the next batch the current one.
    ///
    /// # Panics
    /// When the current one is not consumed, or nothing is visible.
    pub fn take(&mut self) {
        assert!(self.taken < self.visible, "took a batch that is not visible");
        self.give_back();
        let batch = match self.restored.pop_front() {
            Some(batch) => batch,
            None => self.ring.pop().expect("a visible batch is in the ring"),
        };
        self.taken += 1;
        self.holds_batch = true;
        self.current.load(batch);
    }

    /// Returns the consumed batch's memory to the producer. Does nothing while records are left in it.
    pub fn give_back(&mut self) {
        if !self.holds_batch || !self.current.is_empty() {
            return;
        }
        self.holds_batch = false;
        let empty = self.current.unload();
        if self.taken <= self.restored_end() {
            // Not the producer's, which never counted it.
            return;
        }
        if self.empties.push(empty).is_err() {
            self.dropped_batches.fetch_add(1, Ordering::Relaxed);
        }
        self.doorbell.ring();
    }

    /// Gives `read` the unconsumed records of batch `position`, without taking them; none when it is consumed.
    ///
    /// # Panics
    /// When `position` is not visible.
    pub fn peek<R>(&mut self, position: u64, read: impl FnOnce(&[T]) -> R) -> R {
        assert!(position < self.visible, "peeked at a batch that is not visible");
        if position < self.taken {
            return read(if position + 1 == self.taken { self.current.rest() } else { &[] });
        }
        let index = (position - self.taken) as usize;
        if index < self.restored.len() {
            return read(&self.restored[index]);
        }
        let index = index - self.restored.len();
        // A chunk that is not committed stays in the ring.
        let chunk = self.ring.read_chunk(index + 1).expect("a visible batch is in the ring");
        let (first, second) = chunk.as_slices();
        read(if index < first.len() { &first[index] } else { &second[index - first.len()] })
    }
}

#[cfg(test)]
mod tests;
