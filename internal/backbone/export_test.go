package backbone

// ForgetPositions makes b a process that has neither written nor read stream
// id.
func ForgetPositions(b *Backbone, id string) { b.positions.forget(id) }
