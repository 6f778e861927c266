//! HTTP, as far as it is the same for every domain: problems, and the routes that read views.

pub mod problem;
