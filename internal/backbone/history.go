package backbone

import (
	"context"
)

// topicHistory is the topic of questions to the node that runs a job.
const topicHistory = "history"

// ServeHistory answers requests for the history of stream id by fn: Serve, on
// its own topic. The node that runs the stream's job calls it, and nobody else
// should.
func (b *Backbone) ServeHistory(id string, fn func(request []byte) (reply []byte)) (stop func(), err error) {
	return b.Serve(topicHistory, id, fn)
}

// AskHistory asks the node that serves the history of stream id. ErrNoOwner,
// at once, where none does.
func (b *Backbone) AskHistory(ctx context.Context, id string, request []byte) ([]byte, error) {
	return b.Ask(ctx, topicHistory, id, request)
}
