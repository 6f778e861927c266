//! Who there is: tenants, users, workspaces, and how somebody becomes a user.

mod checks;
pub mod email;
pub mod registration;
pub mod tenant;
pub mod user;
pub mod workspace;

pub use checks::BadField;
