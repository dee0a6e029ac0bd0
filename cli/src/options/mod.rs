//! Options that several commands share.

pub mod change;
pub mod mode;
pub mod moment;
pub mod operator;
pub mod position;
pub mod status;
