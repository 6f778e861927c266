-- Beside `millrace`, the journal, which the image makes.
CREATE DATABASE views;
CREATE DATABASE registry;
