package backbone

import (
	"encoding/json"

	"github.com/nats-io/nats-server/v2/server"
)

func Raft(b *Backbone) string {
	r := b.server.Raftz(&server.RaftzOptions{})
	d, _ := json.Marshal(r)
	r = b.server.Raftz(&server.RaftzOptions{AccountFilter: "$G"})
	d2, _ := json.Marshal(r)
	return string(d) + string(d2)
}
