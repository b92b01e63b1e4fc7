"""What lies in a store, byte for byte: objects, records, arrays, seals. Nobody else knows a key of it."""
