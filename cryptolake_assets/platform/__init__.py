"""Run the platform on one machine: JVM, jars and the supervised parts."""
