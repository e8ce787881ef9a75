"""What one machine needs to run it all: JVM, jars, and the supervised parts."""
