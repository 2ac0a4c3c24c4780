//! What a disk can do: random reads of 16 KiB around the page cache, 32 under way at a time, through io_uring.

use crate::Result;
use crate::workload::mix;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;
/// Reads under way.
const DEPTH: usize = 32;
/// Alignment that direct I/O asks for, on all common file systems.
const ALIGN: usize = 4096;

/// A file that is read from.
pub struct TestFile {
    file: File,
    blocks: u64,
}

impl TestFile {
    /// Writes a file of about `bytes` bytes without holes to `path`, durably.
    ///
    /// # Errors
    /// The disk refused, also when its file system has no direct I/O.
    pub fn create(path: &Path, bytes: u64) -> Result<TestFile> {
        let blocks = (bytes / READ_BYTES as u64).max(1);
        let mut file = File::create_new(path)?;
        let mut block = vec![0; READ_BYTES];
        for index in 0..blocks {
            block
                .chunks_mut(8)
                .zip(index..)
                .for_each(|(word, i)| word.copy_from_slice(&mix(i).to_le_bytes()));
            file.write_all(&block)?;
        }
        file.sync_all()?;
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let file = File::options().read(true).custom_flags(direct).open(path)?;
        Ok(TestFile { file, blocks })
    }

    /// Reads per second, over about `measure`.
    ///
    /// # Errors
    /// io_uring is missing or forbidden, or a read failed.
    #[expect(unsafe_code, reason = "the kernel writes to buffers that it is given by address")]
    pub fn reads_per_s(&self, measure: Duration) -> Result<f64> {
        let mut memory = vec![0_u8; (DEPTH + 1) * READ_BYTES];
        let aligned = memory.as_ptr().align_offset(ALIGN);
        let buffers = &mut memory[aligned..aligned + DEPTH * READ_BYTES];
        // Before the buffers in scope, so that the ring is closed first on any way out.
        let mut ring = IoUring::new(DEPTH as u32)?;
        let descriptor = types::Fd(self.file.as_raw_fd());
        let (mut submitted, mut completed) = (0_u64, 0_u64);
        let mut idle: Vec<usize> = (0..DEPTH).collect();
        let start = Instant::now();
        loop {
            let over = start.elapsed() >= measure;
            while let (false, Some(slot)) = (over, idle.pop()) {
                let offset = mix(submitted) % self.blocks * READ_BYTES as u64;
                let buffer = buffers[slot * READ_BYTES..].as_mut_ptr();
                let read = opcode::Read::new(descriptor, buffer, READ_BYTES as u32).offset(offset).build();
                // SAFETY: the slot's READ_BYTES bytes lie within `buffers`, nobody else uses them while the slot is not in `idle`, and they
                // outlive the read: all that is submitted is waited for below, on every way out of this function.
                unsafe {
                    ring.submission().push(&read.user_data(slot as u64)).expect("as many entries as slots")
                };
                submitted += 1;
            }
            if submitted == completed {
                return Ok(completed as f64 / start.elapsed().as_secs_f64());
            }
            wait(&mut ring);
            let mut failed = None;
            for completion in ring.completion() {
                completed += 1;
                idle.push(completion.user_data() as usize);
                if completion.result() != READ_BYTES as i32 {
                    failed = Some(completion.result());
                }
            }
            if let Some(result) = failed {
                while completed < submitted {
                    wait(&mut ring);
                    completed += ring.completion().count() as u64;
                }
                let error = std::io::Error::from_raw_os_error(result.checked_neg().unwrap_or(0));
                return Err(format!("a read of the test file failed: {error}").into());
            }
        }
    }
}

/// Waits for a completion. What is under way belongs to the kernel: there is no way back to the caller without it.
fn wait(ring: &mut IoUring) {
    while let Err(error) = ring.submit_and_wait(1) {
        if error.kind() != std::io::ErrorKind::Interrupted {
            eprintln!("thalweg-bench: io_uring has stopped working: {error}");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_at_random() {
        let folder = crate::store::folder("random-reads").expect("a folder");
        let file = TestFile::create(&folder.0.join("file"), 1 << 20).expect("a file");
        match file.reads_per_s(Duration::from_millis(20)) {
            Ok(reads_per_s) => assert!(reads_per_s > 0.0),
            // Containers may forbid io_uring; the scenario then says so too.
            Err(error) => assert!(IoUring::new(1).is_err(), "{error}"),
        }
    }
}
