"""A board that is not there: registers, interrupts and memory around the emitted C++, behind the faces of real ones."""
