//! Directories whose names outlive a loss of power.

use super::DiskHandle;
use crate::error::StoreError;
use std::io::ErrorKind;
use std::path::Path;

/// Creates a directory and what is missing above it; afterwards its name and all names above it are durable. `sync` makes the
/// entries of a directory durable. Blocks on the disk: for plain threads.
///
/// A directory that exists may be the leftover of a process that died before it could sync the name, so the
/// parent of the first existing one is synced as well. Nothing is ever created in a directory whose own name is
/// not durable, so names further up are.
///
/// # Errors
/// [`StoreError::Io`]: a directory cannot be created; and those of `sync`.
pub fn create_dir_durably(
    disk: &DiskHandle,
    path: &Path,
    sync: &dyn Fn(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let sync_name = |path: &Path| parent(path).map_or(Ok(()), sync);
    // A directory that this process may not read is none of ours.
    let sync_name_of_existing = |path: &Path| match sync_name(path) {
        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other,
    };
    let above = parent(path).filter(|above| *above != path);
    match (disk.create_dir(path).wait(), above) {
        (Ok(()), Some(above)) => sync_name_of_existing(above)?,
        (Ok(()), None) => {}
        (Err(e), _) if e.kind() == ErrorKind::AlreadyExists => return sync_name_of_existing(path),
        (Err(e), Some(above)) if e.kind() == ErrorKind::NotFound => {
            create_dir_durably(disk, above, sync)?;
            match disk.create_dir(path).wait() {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(StoreError::io("creating", path, e));
                }
                _ => {}
            }
        }
        (Err(e), _) => return Err(StoreError::io("creating", path, e)),
    }
    sync_name(path)
}

/// The directory that holds the name of `path`; none for a root.
fn parent(path: &Path) -> Option<&Path> {
    match path.parent()? {
        above if above.as_os_str().is_empty() => Some(Path::new(".")),
        above => Some(above),
    }
}
