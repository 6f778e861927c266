//! What operators ask about processors.
