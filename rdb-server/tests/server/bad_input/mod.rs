//! What does not belong on the wire: each gets the right answer, the process lives, and other clients notice nothing.
//!
//! Spoken with the generated stubs and bare sockets ([`wire`]), past the client library, which would refuse most of it
//! itself.

mod connections;
mod requests;
mod wire;
