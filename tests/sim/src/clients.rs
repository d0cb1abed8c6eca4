//! Who asks the members, and whether what they were told is true.
