"""What worker and aggregator say to each other, and the records of a round in the bucket. Imports only photon.api."""
