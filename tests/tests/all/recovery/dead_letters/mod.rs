//! Dead letters: redriving, discarding, and how they are reported.

mod commands;
mod redriving;
mod signals;
