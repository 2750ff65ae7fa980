//! The mandate: claims, signing, verification, key sets, sealed keys.
