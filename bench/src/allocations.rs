//! How often does a process ask for memory? Counted from outside, in the executable as it is shipped: a library loaded
//! before the C library's allocator (`bench/preload`) counts in a file that this process reads.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/preload/count_allocations.c");

/// The library, built, and the file it counts in.
#[derive(Debug)]
pub(crate) struct Counter {
    folder: TempDir,
}

impl Counter {
    /// Builds the library with the machine's C compiler.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let counter = Self {
            folder: TempDir::new()?,
        };
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]);
        let status = compiler.arg(counter.library()).arg(SOURCE).status();
        ensure!(
            status.context("cc")?.success(),
            "the counting library cannot be built"
        );
        Ok(counter)
    }

    /// What the process needs in its environment to be counted.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.display().to_string();
        [
            ("LD_PRELOAD", text(self.library())),
            ("CARACAL_BENCH_ALLOCATIONS", text(self.file())),
        ]
    }

    /// Allocations so far, reallocations included.
    pub(crate) fn read(&self) -> anyhow::Result<u64> {
        let bytes = std::fs::read(self.file())?;
        let count = bytes.first_chunk::<8>().context("nothing was counted")?;
        Ok(u64::from_ne_bytes(*count))
    }

    fn library(&self) -> PathBuf {
        self.path("count_allocations.so")
    }

    fn file(&self) -> PathBuf {
        self.path("count")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}
