//! Admits or denies each agent request, then forwards it.
