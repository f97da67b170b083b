"""What objects of Kubernetes look like. Pure: a specification in, manifests out."""
