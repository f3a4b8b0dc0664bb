//! `watch`: what it says.
