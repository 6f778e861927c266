//! Members of a group as processes of their own, so that they can be killed and stopped.
