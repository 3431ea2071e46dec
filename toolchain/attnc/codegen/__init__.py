"""From a program to C++, scripts and binary files."""
