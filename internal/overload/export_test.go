package overload

import "time"

// Late makes the node look so late.
func (s *Shedder) Late(d time.Duration) { s.late.Store(int64(d)) }
