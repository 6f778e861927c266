//! Who there is: tenants, their users and workspaces, and how somebody becomes a user.

pub mod email;
pub mod registration;
pub mod tenant;
pub mod user;
pub mod workspace;
