"""Which version of its secrets a session has; those that have any get the first."""

from django.db import migrations, models


def count_what_is_there(apps, schema_editor):
    sessions = apps.get_model("ohsessions", "Session").objects.using(schema_editor.connection.alias)
    sessions.exclude(secrets="").update(secrets_version=1)


class Migration(migrations.Migration):

    dependencies = [
        ('ohsessions', '0004_links'),
    ]

    operations = [
        migrations.AddField(
            model_name='session',
            name='secrets_version',
            field=models.PositiveIntegerField(db_default=0, default=0, help_text='Raised by each change of the secrets; 0: there were never any.'),
        ),
        migrations.RunPython(count_what_is_there, migrations.RunPython.noop),
    ]
