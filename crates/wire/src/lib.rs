//! Everything that crosses a process: forms, bodies, headers, events, signatures.
