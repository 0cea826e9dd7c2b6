package analysis

import (
	"slices"
	"strings"
)

// Jobs returns what is known of all running jobs, oldest first.
func (s *Service) Jobs() []Info {
	s.mu.Lock()
	all := make([]Info, 0, len(s.jobs))
	for _, j := range s.jobs {
		all = append(all, j.info)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.ID, b.ID) })
	return all
}
