//! The mirror that container clients ask. Being written: the rooms beside this file are not joined to it yet.
