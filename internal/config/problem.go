package config

import (
	"fmt"
	"reflect"
	"time"

	"github.com/alecthomas/kong"
)

// A problem is what is wrong with a setting that has been read.
type problem struct {
	// key is the setting, as the file calls it; others are what it was compared
	// with.
	key    string
	others []string
	text   string
}

// Error tells it without the place, which source.locate knows.
func (p problem) Error() string { return p.key + ": " + p.text }

// locate tells p with the variable or the line of the file that the value comes
// from. A value of the command line stands before the user's eyes, under the
// flag's name.
func (src *source) locate(p problem) error {
	if place := src.places[p.key]; place != "" {
		return fmt.Errorf("%s: %s", place, p.text)
	}
	for _, other := range p.others { // the default, beside what was set
		if place := src.places[other]; place != "" {
			return fmt.Errorf("%s: %w", place, p)
		}
	}
	return p
}

// moot reports whether p is about a value that was refused, and so about the
// default that stands in its place.
func (src *source) moot(p problem) bool {
	for _, key := range append([]string{p.key}, p.others...) {
		if src.refused[key] || src.file.refused[key] {
			return true
		}
	}
	return false
}

// orOff is the name, in tags, of a duration that may be "off", as in a
// provider's entry.
const orOff = "or-off"

func decodeOrOff(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	if text == off {
		text = "0s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("expected a duration such as 8s, or %s, but got %q", off, text)
	}
	target.Set(reflect.ValueOf(d))
	return nil
}
