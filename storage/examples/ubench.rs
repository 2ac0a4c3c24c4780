#![allow(unsafe_code, missing_docs)]
use std::hint::black_box;
use std::time::Instant;
use thalweg_storage::snapshot::*;
use thalweg_storage::table::*;
use thalweg_storage::{AttemptId, CheckpointId, Data, KeyGroups};
struct T(ValueTable<u64, u64>);
impl Tables for T {
    fn count(&self) -> usize {
        1
    }
    fn table(&mut self, _: usize) -> &mut dyn StateTable {
        &mut self.0
    }
}
struct Plain {
    mask: usize,
    slots: Vec<(u64, u64)>,
    used: usize,
}
impl Plain {
    fn new(n: usize) -> Self {
        let c = (n * 2).next_power_of_two();
        Plain { mask: c - 1, slots: vec![(u64::MAX, 0); c], used: 0 }
    }
    #[inline]
    fn prefetch(&self, h: u64) {
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                self.slots.as_ptr().add((h >> 16) as usize & self.mask) as *const i8,
            )
        }
    }
    #[inline]
    fn update(&mut self, h: u64, k: u64) {
        let mut i = (h >> 16) as usize & self.mask;
        loop {
            let s = &mut self.slots[i];
            if s.0 == k {
                s.1 += 1;
                return;
            }
            if s.0 == u64::MAX {
                *s = (k, 1);
                self.used += 1;
                return;
            }
            i = (i + 1) & self.mask;
        }
    }
}
fn rss() -> usize {
    std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<usize>().unwrap()
        * 4096
}
fn main() {
    let mut x = 1u64;
    let mut rng = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    // hash cost
    let keys: Vec<u64> = (0..1024).map(|_| rng()).collect();
    let t = Instant::now();
    let mut s = 0;
    for _ in 0..20000 {
        for k in &keys {
            s ^= black_box(k.key_hash());
        }
    }
    black_box(s);
    println!("hash u64 {:.2} ns", t.elapsed().as_nanos() as f64 / (20000.0 * 1024.0));
    let pk: Vec<(u64, u32)> = keys.iter().map(|k| (*k, 1)).collect();
    let t = Instant::now();
    let mut s = 0;
    for _ in 0..20000 {
        for k in &pk {
            s ^= black_box(k.key_hash());
        }
    }
    black_box(s);
    println!("hash (u64,u32) {:.2} ns", t.elapsed().as_nanos() as f64 / (20000.0 * 1024.0));
    for &k in &[1_000u64, 1_000_000, 10_000_000] {
        let groups = KeyGroups::new(128);
        let n: usize = 12_000_000;
        let pool: Vec<u64> = (0..n).map(|_| rng() % k).collect();
        let r0 = rss();
        let mut t = ValueTable::<u64, u64>::new("count", groups, 0..128);
        let t0 = Instant::now();
        for i in 0..k {
            let h = i.key_hash();
            t.update(h, &i, || 0, |v| *v += 1);
        }
        println!(
            "K={k}: fill {:.1} ns/key, {:.1} B/key counted, {:.1} B/key rss",
            t0.elapsed().as_nanos() as f64 / k as f64,
            t.memory_bytes() as f64 / k as f64,
            (rss() - r0) as f64 / k as f64
        );
        let mut p = Plain::new(k as usize);
        for i in 0..k {
            p.update(i.key_hash(), i);
        }
        for &b in &[128usize, 512, 1024] {
            let mut best = (f64::MAX, f64::MAX, f64::MAX);
            for _ in 0..3 {
                let mut hs = vec![0u64; b];
                let t0 = Instant::now();
                for c in pool.chunks_exact(b) {
                    for (h, k) in hs.iter_mut().zip(c) {
                        *h = k.key_hash();
                        p.prefetch(*h);
                    }
                    for (h, k) in hs.iter().zip(c) {
                        p.update(*h, *k);
                    }
                }
                let a = t0.elapsed().as_nanos() as f64 / n as f64;
                let t0 = Instant::now();
                for c in pool.chunks_exact(b) {
                    for (h, k) in hs.iter_mut().zip(c) {
                        *h = k.key_hash();
                    }
                    for h in &hs {
                        t.prefetch(*h);
                    }
                    for (h, k) in hs.iter().zip(c) {
                        t.update(*h, k, || 0, |v| *v += 1);
                    }
                }
                let d = t0.elapsed().as_nanos() as f64 / n as f64;
                let t0 = Instant::now();
                for c in pool.chunks_exact(b) {
                    for (h, k) in hs.iter_mut().zip(c) {
                        *h = k.key_hash();
                        t.prefetch(*h);
                    }
                    for (h, k) in hs.iter().zip(c) {
                        t.update(*h, k, || 0, |v| *v += 1);
                    }
                }
                let d2 = t0.elapsed().as_nanos() as f64 / n as f64;
                best = (best.0.min(a), best.1.min(d), best.2.min(d2));
            }
            println!(
                "  batch {b}: plain {:.2} ns, table {:.2} ns (ratio {:.2}), hash+prefetch in one loop {:.2}",
                best.0,
                best.1,
                best.1 / best.0,
                best.2
            );
        }
        // snapshot
        let mut tt = T(t);
        let mut ks = KeyedSnapshots::new(0..128, true, 1);
        for c in 1..=4u64 {
            let t0 = Instant::now();
            ks.begin(CheckpointId(c), AttemptId(1), format!("s{c}"), &mut tt);
            let tb = t0.elapsed();
            let mut max = 0;
            let mut tot = 0u128;
            let mut bytes = 0;
            let mut slices = 0;
            let mut during = 0u128;
            let mut nd = 0;
            let mut it = pool.chunks_exact(512).cycle();
            let mut hs = vec![0u64; 512];
            let mut all = vec![];
            loop {
                let t0 = Instant::now();
                let s = ks.advance(CheckpointId(c), &mut tt, 1024);
                let e = t0.elapsed().as_nanos();
                tot += e;
                max = max.max(e);
                slices += 1;
                all.push(e as u32);
                match s {
                    Step::Bytes(b) => bytes += b.len(),
                    Step::Done => break,
                    Step::More => {}
                }
                let cc = it.next().unwrap();
                let t0 = Instant::now();
                for (h, k) in hs.iter_mut().zip(cc) {
                    *h = k.key_hash();
                }
                for h in &hs {
                    tt.0.prefetch(*h);
                }
                for (h, k) in hs.iter().zip(cc) {
                    tt.0.update(*h, k, || 0, |v| *v += 1);
                }
                during += t0.elapsed().as_nanos();
                nd += 512;
            }
            all.sort();
            println!(
                "  ckpt {c}: begin {tb:?}, {slices} slices, total {:.1} ms, p99 {} max {} us, {bytes} bytes ({:.2} B/key), update during {:.1} ns",
                tot as f64 / 1e6,
                all[all.len() * 99 / 100] / 1000,
                max / 1000,
                bytes as f64 / k as f64,
                during as f64 / nd as f64
            );
            ks.completed(CheckpointId(c), &mut tt);
            for cc in pool.chunks_exact(512).take(4000) {
                for (h, k) in hs.iter_mut().zip(cc) {
                    *h = k.key_hash();
                }
                for h in &hs {
                    tt.0.prefetch(*h);
                }
                for (h, k) in hs.iter().zip(cc) {
                    tt.0.update(*h, k, || 0, |v| *v += 1);
                }
            }
        }
    }
}
