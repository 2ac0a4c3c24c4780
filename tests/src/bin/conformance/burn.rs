//! Processes that want every core: what a contended run has to share the machine with.
//!
//! Always true: a burner ends when its parent does, when it is told to, or after its time, whichever comes first.

use std::os::unix::process::parent_id;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Options of one burner.
#[derive(clap::Args)]
pub struct Options {
    /// Seconds after which it ends by itself
    #[arg(long)]
    seconds: u64,
}

/// Spins.
pub fn run(options: &Options) -> bool {
    let (begin, parent) = (Instant::now(), parent_id());
    let mut sum = 0_u64;
    while begin.elapsed() < Duration::from_secs(options.seconds) && parent_id() == parent {
        for number in 0..1_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
    true
}

/// Burners, ended with this value.
pub struct Burners(Vec<Child>);

impl Burners {
    /// One per core, for `seconds` at most.
    pub fn start(count: usize, seconds: u64) -> std::io::Result<Burners> {
        let program = std::env::current_exe()?;
        let burner = |_| {
            Command::new(&program)
                .args(["burn", "--seconds", &seconds.to_string()])
                .stdin(Stdio::null())
                .spawn()
        };
        Ok(Burners((0..count).map(burner).collect::<Result<_, _>>()?))
    }

    /// Number of burners that still run.
    pub fn running(&mut self) -> usize {
        self.0.iter_mut().filter_map(|child| child.try_wait().ok()).filter(Option::is_none).count()
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
