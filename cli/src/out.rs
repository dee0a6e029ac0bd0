//! Standard output that may be closed by its reader, as `| head` does.

use std::io::{ErrorKind, Write as _};

/// Prints a text as it is. A reader that has gone away ends the process quietly: nobody is left to tell.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        let code = i32::from(error.kind() != ErrorKind::BrokenPipe);
        std::process::exit(code);
    }
}
