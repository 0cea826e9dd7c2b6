package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Load makes a configuration from command-line arguments (without the
// program's and command's names) and an environment as os.Environ gives it.
// The error lists everything that is wrong, one problem a line, each with the
// line of the file or the variable that it comes from. Only a command line that
// can't be read is told alone, since it may name the file.
func Load(args, environ []string) (*Serve, error) {
	s := new(Serve)
	k, err := kong.New(s, append(Options(environ), kong.Name("athena serve"), kong.NoDefaultHelp())...)
	if err != nil {
		return nil, err
	}
	if _, err := k.Parse(args); err != nil {
		if p, ok := errors.AsType[*kong.ParseError](err); ok {
			err = p.Unwrap()
		}
		return nil, err
	}
	return s, nil
}

// Options are what kong needs to fill a Serve, as the whole grammar or as one
// of its commands. Flags of other commands are left alone.
//
// kong's own variables are not used: it reads the process's environment, and
// lets a resolver (the file) win over them.
func Options(environ []string) []kong.Option {
	src := &source{env: parseEnviron(environ), envNames: make(map[*kong.Value]string), places: make(map[string]string), refused: make(map[string]bool)}
	return []kong.Option{
		kong.NamedMapper(orOff, kong.MapperFunc(decodeOrOff)),
		kong.Bind(src),
		kong.Resolvers(src),
		kong.PostBuild(func(k *kong.Kong) error { src.adopt(k.Model.Node); return nil }),
		kong.ValueFormatter(src.help),
	}
}

// parseEnviron returns the variables that are set and not empty.
func parseEnviron(environ []string) map[string]string {
	env := make(map[string]string)
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok && value != "" {
			env[name] = value
		}
	}
	return env
}

// A source gives flags the values of the environment and of the file.
type source struct {
	env      map[string]string
	envNames map[*kong.Value]string // of Serve's flags
	keys     map[string]bool        // of the file, from Serve's flags
	config   *kong.Flag

	loaded  bool
	file    file
	loadErr error

	// By the setting's key.
	places  map[string]string // where its value stands, if not on the command line
	refused map[string]bool   // whose value can't be taken, so that it has its default
	wrong   []error           // what is wrong with these values
}

// adopt finds Serve's flags below n. The Serve is n's own struct, or embedded
// in it beside flags that are none of ours.
func (src *source) adopt(n *kong.Node) {
	if serve, ok := serveOf(n.Target); ok {
		begin, end := serve.UnsafeAddr(), serve.UnsafeAddr()+serve.Type().Size()
		src.keys = make(map[string]bool)
		for _, f := range n.Flags {
			if !f.Target.CanAddr() || f.Target.UnsafeAddr() < begin || f.Target.UnsafeAddr() >= end {
				continue
			}
			src.envNames[f.Value] = EnvPrefix + strings.ToUpper(fileKey(f.Name))
			if f.Name == "config" {
				src.config = f
			} else {
				src.keys[fileKey(f.Name)] = true
			}
		}
	}
	for _, c := range n.Children {
		src.adopt(c)
	}
}

func serveOf(v reflect.Value) (reflect.Value, bool) {
	if !v.IsValid() || v.Kind() != reflect.Struct || !v.CanAddr() {
		return reflect.Value{}, false
	}
	if v.Type() == reflect.TypeFor[Serve]() {
		return v, true
	}
	f, ok := v.Type().FieldByName("Serve")
	if !ok || !f.Anonymous || f.Type != reflect.TypeFor[Serve]() {
		return reflect.Value{}, false
	}
	return v.FieldByIndex(f.Index), true
}

// fileKey is the key of a flag in the file.
func fileKey(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// help is kong.DefaultHelpValueFormatter for variables of ours.
func (src *source) help(v *kong.Value) string {
	if name, ok := src.envNames[v]; ok {
		return v.Help + " ($" + name + ")"
	}
	return kong.DefaultHelpValueFormatter(v)
}

// Validate is part of kong.Resolver.
func (src *source) Validate(*kong.Application) error { return nil }

// Resolve returns the value of a flag that is not on the command line. One that
// the flag doesn't take is noted and left out: kong would stop at the first, and
// AfterApply tells all.
func (src *source) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name, ok := src.envNames[flag.Value]
	if !ok {
		return nil, nil
	}
	src.load(ctx)
	key := fileKey(flag.Name)
	var value any
	if v, ok := src.env[name]; ok {
		value, src.places[key] = v, "variable "+name
	} else if s, ok := src.file.settings[key]; ok {
		value, src.places[key] = listed(flag, s.value), fmt.Sprintf("%s, line %d, key %s", src.file.path, s.line, key)
	} else {
		return nil, nil
	}
	if err := check(flag, value); err != nil {
		src.refused[key] = true
		src.wrong = append(src.wrong, fmt.Errorf("%s: %w", src.places[key], err))
		return nil, nil
	}
	return value, nil
}

// listed writes a list of the file as the flag's value on a command line: what
// kong says of a wrong item is plainer then.
func listed(flag *kong.Flag, value any) any {
	list, ok := value.([]any)
	if !ok || len(list) == 0 || !flag.IsSlice() {
		return value
	}
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = item.(string) // as parser.value makes them
	}
	return kong.JoinEscaped(texts, flag.Tag.Sep)
}

// check returns an error unless flag takes value.
func check(flag *kong.Flag, value any) error {
	trial := reflect.New(flag.Target.Type()).Elem()
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: kong.Scan().PushTyped(value, kong.FlagValueToken)}, trial); err != nil {
		return err
	}
	if flag.Enum != "" && !slices.Contains(flag.EnumSlice(), fmt.Sprint(trial)) {
		return fmt.Errorf("is %.40q; it must be one of %s", fmt.Sprint(trial), strings.Join(flag.EnumSlice(), ", "))
	}
	return nil
}

// load reads the file that the command line or the environment names.
func (src *source) load(ctx *kong.Context) {
	if src.loaded {
		return
	}
	src.loaded = true
	path, _ := ctx.FlagValue(src.config).(string)
	if path = cmp.Or(path, src.env[src.envNames[src.config.Value]]); path != "" {
		src.file, src.loadErr = readFile(path, src.keys)
	}
}

// AfterApply is called by kong when the flags have their values. It adds what
// flags can't give, and checks the whole.
func (s *Serve) AfterApply(src *source) error {
	errs := append([]error{src.loadErr}, src.wrong...)
	if src.loadErr != nil && src.file.path == "" {
		return errors.Join(errs...) // what it would have said is not known
	}
	if s.DataDir == "" {
		s.DataDir = defaultDataDir(src.env)
	} else if rest, ok := strings.CutPrefix(s.DataDir, "~/"); ok && src.env["HOME"] != "" {
		s.DataDir = filepath.Join(src.env["HOME"], rest)
	}
	var err error
	s.Providers, err = resolveProviders(s, src.file, src.env)
	errs = append(errs, err)
	for _, p := range s.problems() {
		if !src.moot(p) {
			errs = append(errs, src.locate(p))
		}
	}
	return errors.Join(errs...)
}

// defaultDataDir follows the XDG base directory specification, which ignores
// relative paths. It is empty where the environment names no home.
func defaultDataDir(env map[string]string) string {
	if dir := env["XDG_DATA_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "athena")
	}
	if home := env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "athena")
	}
	return ""
}

// grammar is kong's model of Serve alone.
func (src *source) grammar() *kong.Node {
	k, err := kong.New(new(Serve), kong.NoDefaultHelp(), kong.Bind(src))
	if err != nil {
		panic(err) // the struct is a constant
	}
	src.adopt(k.Model.Node)
	return k.Model.Node
}

// Table renders every setting as a Markdown table, for the README.
func Table() string {
	src := &source{envNames: make(map[*kong.Value]string)}
	model := src.grammar()
	var b strings.Builder
	b.WriteString("| flag | variable | key in the file | default | meaning |\n| --- | --- | --- | --- | --- |\n")
	for _, f := range model.Flags {
		key, def := "`"+fileKey(f.Name)+"`", f.Default
		if f == src.config {
			key = ""
		}
		name := f.Name
		if f.IsBool() {
			def = cmp.Or(def, "false")
			if f.Tag.Negatable != "" {
				name = "[no-]" + name
			}
		}
		if def != "" {
			def = "`" + def + "`"
		}
		help := strings.NewReplacer("|", `\|`, "*", `\*`).Replace(f.Help)
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s | %s |\n", name, src.envNames[f.Value], key, def, help)
	}
	b.WriteString("\n| variable | provider | meaning |\n| --- | --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(presets)) {
		if p := presets[name]; p.keyVar != "" {
			fmt.Fprintf(&b, "| `%s` | `%s` | its API key |\n", p.keyVar, name)
			fmt.Fprintf(&b, "| `%s` | `%s` | its address; a server that needs no key needs only this, and offers the models that it lists |\n", p.urlVar, name)
		}
	}
	return b.String()
}
