//! What is released: the version it names, the package, the archive and the image, and what all of them depend on.

mod archive;
mod commit;
mod image;
mod names;
mod package;
mod sbom;
mod supply_chain;
mod support;
