package secrets

import "github.com/athena-hub/athena/providers/local/rules"

// Rules lists the package's rules.
func Rules() []*rules.Rule {
	all := make([]*rules.Rule, len(formats))
	for i := range formats {
		all[i] = &formats[i].Rule
	}
	return all
}
