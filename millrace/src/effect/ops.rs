//! What operators see of effects and do to them; see `millrace effects`.
